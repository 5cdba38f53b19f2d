"""What sources say of their pictures, and what that becomes."""

import json
from types import SimpleNamespace

import onnx
import pytest

from export.errors import SourceError
from export.sources.configs import read_config
from export.sources.declared import (
    Declared,
    of_timm,
    of_torchvision,
    of_ultralytics,
    read_resize,
)
from export.sources.pictures import preprocessing_of
from service.contract.framing import Resize

MEAN, STD = (0.5, 0.4, 0.3), (0.2, 0.2, 0.1)
PLAIN = Declared(mean=MEAN, std=STD)


def test_timm_states_a_crop_fraction():
    cfg = {"input_size": (3, 240, 240), "crop_pct": 0.9, "interpolation": "bicubic", "mean": MEAN, "std": STD}
    square = of_timm(cfg, "t")
    assert square.resize == Resize(mode="shorter", size=(266,), interpolation="bicubic")
    assert square.crop == (240, 240)
    assert of_timm({**cfg, "input_size": (3, 240, 320)}, "t").resize.size == (266, 355)
    squashed = of_timm({**cfg, "crop_mode": "squash"}, "t")
    assert (squashed.resize.mode, squashed.resize.size) == ("exact", (266, 266))
    bordered = of_timm({**cfg, "crop_mode": "border", "crop_pct": 1.0}, "t")
    assert (bordered.resize.mode, bordered.fill) == ("longest", (128, 102, 76))


def test_torchvisions_transform_states_everything():
    transform = SimpleNamespace(
        crop_size=[224],
        resize_size=[232],
        interpolation=SimpleNamespace(value="bilinear"),
        mean=MEAN,
        std=STD,
    )
    found = of_torchvision(transform, "t", ["cat", "dog"])
    assert found.resize == Resize(mode="shorter", size=(232,))
    assert (found.crop, found.labels) == ((224, 224), ("cat", "dog"))
    assert of_torchvision(SimpleNamespace(resize_size=[520]), "t") is None


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        (
            {
                "image_processor_type": "ViTImageProcessor",
                "size": {"height": 224, "width": 224},
                "resample": 2,
            },
            {"resize": Resize(mode="exact", size=(224, 224)), "crop": None, "crop_rounding": "down"},
        ),
        (  # as models of 2021 write it: a number is a square to one processor, the shorter side to others
            {"feature_extractor_type": "ViTFeatureExtractor", "size": 224},
            {"resize": Resize(mode="exact", size=(224, 224)), "crop": None},
        ),
        (
            {"feature_extractor_type": "CLIPFeatureExtractor", "size": 224, "do_convert_rgb": True},
            {
                "resize": Resize(mode="shorter", size=(224,), interpolation="bicubic"),
                "crop": (224, 224),
                "background": (),
            },
        ),
        (
            {"feature_extractor_type": "ConvNextFeatureExtractor", "size": 384, "crop_pct": 0.875},
            {"resize": Resize(mode="exact", size=(384, 384), interpolation="bicubic"), "crop": None},
        ),
        (
            {"image_processor_type": "EfficientNetImageProcessor", "size": 64, "rescale_offset": True},
            {"mean": (1.5, 1.4, 1.3), "std": tuple(value * value for value in STD)},
        ),
        (
            {"image_processor_type": "LevitImageProcessorFast", "size": 224, "image_mean": 0.5},
            {"resize": Resize(mode="shorter", size=(256,), interpolation="bicubic"), "mean": (0.5,) * 3},
        ),
        (
            {
                "feature_extractor_type": "ConvNextFeatureExtractor",
                "size": {"shortest_edge": 224},
                "crop_pct": 0.875,
                "resample": 3,
            },
            {"resize": Resize(mode="shorter", size=(256,), interpolation="bicubic"), "crop": (224, 224)},
        ),
        (
            {
                "image_processor_type": "MobileViTImageProcessor",
                "size": {"shortest_edge": 288},
                "crop_size": {"height": 256, "width": 256},
                "do_center_crop": True,
                "do_normalize": False,
                "do_flip_channel_order": True,
            },
            {"crop": (256, 256), "channels": "BGR", "mean": (0.0, 0.0, 0.0), "std": (1.0, 1.0, 1.0)},
        ),
        (
            {"image_mean": [127] * 3, "image_std": [128] * 3, "do_rescale": False, "do_resize": False},
            {"scale": 1.0, "resize": None, "mean": (127.0, 127.0, 127.0)},
        ),
        ({"pretrained_cfg": {"input_size": [3, 64, 64], "mean": MEAN, "std": STD}}, {"crop": (64, 64)}),
    ],
)
def test_hugging_face_configs(tmp_path, config, expected):
    path = tmp_path / "preprocessor_config.json"
    path.write_text(json.dumps({"image_mean": MEAN, "image_std": STD, **config} | config))
    found = read_config(path)
    assert {name: getattr(found, name) for name in expected} == expected


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("{", "cannot be read as JSON"),
        ("[]", "a config of an unknown kind"),
        ('{"architectures": ["Bert"]}', "a config of an unknown kind"),
        ('{"do_resize": true, "size": {"wide": 3}}', "a size of .'wide'. has no counterpart"),
        ('{"do_resize": true, "do_pad": true}', "do_pad has no counterpart"),
        (
            '{"image_processor_type": "ViTImageProcessor", "size": 8, "resample": 9}',
            "resample 9 has",
        ),
        ('{"image_processor_type": "DonutImageProcessor"}', "DonutImageProcessor may have steps of its own"),
        ('{"do_resize": true, "size": 224}', "is a square to some processors, the shorter side to others"),
        ('{"do_resize": true}', "says do_resize, but no size"),
        ('{"do_resize": true, "size": {"longest_edge": 8}}', "a size of .'longest_edge'. has no counterpart"),
        (
            '{"image_processor_type": "ViTImageProcessor", "size": 8, "crop_pct": 0.9}',
            "crop_pct has no counterpart here for ViT's size",
        ),
        (
            '{"image_processor_type": "PoolFormerImageProcessor", "size": 8, "crop_pct": 0}',
            "says something else than its keys should: division by zero",
        ),
    ],
)
def test_other_configs_are_refused_in_a_sentence(tmp_path, text, sentence):
    path = tmp_path / "c.json"
    path.write_text(text)
    with pytest.raises(SourceError, match=sentence):
        read_config(path)


def test_ultralytics_metadata():
    said = {"author": "Ultralytics", "imgsz": "[640, 480]", "names": "{0: 'a', 1: 'b'}", "task": "detect"}
    found = of_ultralytics(said)
    assert found.resize == Resize(mode="longest", size=(640, 480), antialias=False)
    assert (found.fill, found.labels) == ((114,), None)
    classify = of_ultralytics({**said, "task": "classify", "imgsz": "[224, 224]"})
    assert (classify.resize.mode, classify.labels) == ("shorter", ("a", "b"))
    assert of_ultralytics({}) is None
    with pytest.raises(SourceError, match="metadata cannot be read"):
        of_ultralytics({**said, "names": "__import__('os')"})


def test_flags_complete_and_win():
    declared = read_resize("shorter:32").over(PLAIN)
    made = preprocessing_of(Declared(interpolation="bicubic", channels="BGR").over(declared), (3, 28, 20))
    assert (made.height, made.width, made.mode) == (28, 20, "BGR")
    assert made.resize == Resize(mode="shorter", size=(32,), interpolation="bicubic")
    assert made.background == (255, 255, 255)
    nhwc = preprocessing_of(Declared(crop_fraction=0.875).over(PLAIN), (224, 224, 3))
    assert (nhwc.layout, nhwc.row_shape, nhwc.resize.size) == ("NHWC", (224, 224, 3), (256,))
    letterbox = preprocessing_of(read_resize("letterbox:64").over(PLAIN), (3, 64, 64))
    assert (letterbox.fill, letterbox.resize.antialias) == ((114,), False)
    assert preprocessing_of(Declared(), (3, 4, 4)) is None


@pytest.mark.parametrize(
    ("declared", "row", "sentence"),
    [
        (Declared(crop=(224, 224)), (3, 28, 28), "a crop of 224×224 contradicts the input, whose row is"),
        (Declared(channels="L"), (3, 28, 28), "channels L contradict the input"),
        (Declared(layout="NHWC"), (3, 28, 28), "need a picture of 1 or 3 channels"),
        (Declared(), (3, 28), "need a picture of 1 or 3 channels"),
        (Declared(scale=-1.0), (3, 28, 28), "the preprocessing makes no sense"),
        (Declared(fill=(1, 2)), (3, 28, 28), "the preprocessing makes no sense"),
        (Declared(interpolation="lanczos", antialias=False), (3, 28, 28), "the resize makes no sense"),
    ],
)
def test_contradictions_are_refused_in_a_sentence(declared, row, sentence):
    with pytest.raises(SourceError, match=sentence):
        preprocessing_of(declared.over(PLAIN), row)


def test_pictures_need_a_mean():
    with pytest.raises(SourceError, match="pictures need --mean and --std"):
        preprocessing_of(read_resize("exact:28"), (3, 28, 28))


def test_a_resize_of_another_kind_is_refused():
    for text in ("shorter", "shorter:", "inner:3", "shorter:0", "exact:1x2x3", "exact:axb"):
        with pytest.raises(ValueError):
            read_resize(text)


def test_metadata_props_are_what_onnx_writes():
    model = onnx.ModelProto()
    onnx.helper.set_model_props(model, {"author": "Ultralytics"})
    assert {entry.key: entry.value for entry in model.metadata_props} == {"author": "Ultralytics"}
