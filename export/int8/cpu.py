"""What this machine's CPU does with int8.

x86 without VNNI multiplies uint8 by int8 in pairs and adds each pair in 16 bits.  2 · 255 · 127 = 64,770 does
not fit there: it saturates at 32,767.  With weights of 7 bits, 2 · 255 · 64 = 32,640 fits.
"""

import platform
from pathlib import Path


def _flags() -> tuple[str, set[str]]:
    """The CPU's name and its flags, as Linux gives them."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.machine(), set()
    facts = {key.strip(): value.strip() for key, _, value in (line.partition(":") for line in lines)}
    return facts.get("model name", platform.machine()), set(facts.get("flags", "").split())


def _has_vnni() -> bool:
    return bool({"avx512_vnni", "avx_vnni"} & _flags()[1])


def saturates() -> bool:
    """Whether this CPU sums uint8 × int8 products in 16 bits: x86 without VNNI. Then weights get 7 bits."""
    return platform.machine() in ("x86_64", "AMD64") and bool(_flags()[1]) and not _has_vnni()


def cpu_in_words() -> str:
    """Such as "AMD EPYC, with VNNI"."""
    name = _flags()[0]
    if platform.machine() not in ("x86_64", "AMD64"):
        return name
    return f"{name}, {'with' if _has_vnni() else 'without'} VNNI"
