"""The zoo: every measured net, by family.  `timm/…`, `torchvision/…`, `onnx/…` (light models).

Small variants before large ones; about a hundred of timm's nets that contain BatchNorm. Left out because
they contain none: edgenext, coat, crossvit, poolformer, mambaout, GroupNorm and EvoNorm variants.
"""

TIMM = {
    "resnet": "resnet18 resnet34 resnet50 resnet26t resnet33ts resnetblur18 resnetaa34d resnetrs50",
    "resnet with attention": "seresnet18 ecaresnet26t gcresnext26ts seresnext26d_32x4d legacy_seresnet18 "
    "skresnet18 resnest14d resnest26d bat_resnext26ts botnet26t_256 halonet26t lambda_resnet26t",
    "resnext, res2net": "resnext26ts resnext50_32x4d res2net50_14w_8s res2next50",
    "resnetv2": "resnetv2_18 resnetv2_18d resnetv2_34 resnetv2_50 resnetv2_50t",
    "densenet": "densenet121 densenet169 densenet161 densenet201 densenetblur121d",
    "reparameterised": "repvgg_a0 repvgg_a1 repvgg_b0 mobileone_s0 mobileone_s1 repghostnet_050 repvit_m0_9 "
    "fastvit_t8 fastvit_sa12",
    "xception": "legacy_xception xception41 xception41p",
    "mixnet": "mixnet_s mixnet_m mixnet_l",
    "efficientnet": "efficientnet_b0 efficientnet_es efficientnet_lite0 efficientnet_cc_b0_4e "
    "tf_efficientnet_b0 tf_efficientnetv2_b0 efficientnetv2_rw_t",
    "mobilenet": "mobilenetv1_100 mobilenetv2_100 mobilenetv3_small_100 mobilenetv3_large_100 "
    "mobilenetv4_conv_small mobilenetv4_hybrid_medium",
    "searched": "mnasnet_100 semnasnet_100 spnasnet_100 fbnetc_100 fbnetv3_b hardcorenas_a tinynet_a "
    "tinynet_e lcnet_050",
    "regnet": "regnetx_002 regnetx_008 regnety_002 regnety_008 regnetv_040 regnetz_005 regnetz_b16",
    "ghostnet": "ghostnet_100 ghostnetv2_100",
    "hrnet, dla": "hrnet_w18_small dla34 dla46_c dla60_res2net",
    "vovnet, hgnet": "ese_vovnet19b_dw vovnet39a ese_vovnet39b hgnet_tiny hgnetv2_b0",
    "csp, darknet": "cs3darknet_s cspresnet50 cspresnext50 cspdarknet53 cspnext_tiny darknet17",
    "others": "rexnet_100 selecsls42b dpn48b dpn68 dpn68b gernet_s gernet_m tresnet_m convmixer_768_32 "
    "starnet_s050 fasternet_t0 vgg11_bn",
    "attention": "levit_128s levit_128 levit_conv_128s efficientformer_l1 efficientformerv2_s0 "
    "efficientvit_b0 efficientvit_m0 mobilevit_xxs mobilevitv2_050 visformer_tiny tiny_vit_5m_224 "
    "swiftformer_xs shvit_s1 coatnet_nano_rw_224 xcit_nano_12_p16_224",
    "inception, nasnet": "inception_v3 inception_v4 inception_resnet_v2 pnasnet5large nasnetalarge",
}

TORCHVISION = (
    "resnet18 resnet50 resnext50_32x4d wide_resnet50_2 densenet121 googlenet inception_v3 mnasnet0_5 "
    "mnasnet1_0 mobilenet_v2 mobilenet_v3_small mobilenet_v3_large efficientnet_b0 regnet_x_400mf "
    "regnet_y_400mf shufflenet_v2_x0_5 vgg11_bn"
)

LIGHT = "resnet50 inception_v2 shufflenet densenet121"

QUICK = [
    *("timm/resnet18", "timm/resnetv2_18", "timm/densenet121", "timm/repvgg_a0", "timm/mixnet_s"),
    *("timm/xception41p", "timm/mobilenetv3_small_100", "timm/efficientnet_lite0", "timm/levit_128s"),
    *("timm/regnetv_040", "torchvision/shufflenet_v2_x0_5", "onnx/inception_v2"),
]
"""A dozen, one for each difficulty in removing a BatchNorm."""

ALL = [
    *(f"timm/{name}" for family in TIMM.values() for name in family.split()),
    *(f"torchvision/{name}" for name in TORCHVISION.split()),
    *(f"onnx/{name}" for name in LIGHT.split()),
]


def choose(only: list[str], *, quick: bool) -> list[str]:
    """The names to run, in the zoo's order; names in `only` may omit the part before the slash.

    Raises ValueError for an unknown name.
    """
    if only:
        chosen = [name for name in ALL if name in only or name.partition("/")[2] in only]
        known = {*chosen, *(name.partition("/")[2] for name in chosen)}
        if unknown := [name for name in only if name not in known]:
            raise ValueError(f"not in benchmarks/fold_zoo/nets.py: {', '.join(unknown)}")
        return chosen
    return QUICK if quick else ALL
