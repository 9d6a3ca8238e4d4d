"""What the fit takes as the speed of each device that latencies were published of, where its rows do not say more.

Only ratios between the devices of one family matter: the efficiency is fitted. From shared specifications, data sheets
and the cores' width in multiply-adds (public).
"""

from __future__ import annotations

from dataclasses import dataclass

WIDTH = {  # cores: fp32 operations per cycle, 2 per multiply-add
    "A53": 8, "A55": 8, "A57": 8, "A72": 8, "A76": 16, "A78": 16, "A710": 16, "A715": 16, "A510": 8, "A520": 8,
    "X1": 32, "X3": 32, "X4": 32, "Denver2": 8, "Carmel": 16, "V3": 32, "Tremont": 8, "Gracemont": 16, "P": 32, "E": 16,
}  # fmt: skip
DOT = {"A55", "A76", "A78", "A710", "A715", "A510", "A520", "X1", "X3", "X4", "V3", "Gracemont", "P", "E"}  # int8
HALF = DOT - {"Gracemont", "P", "E"} | {"Carmel"}  # fp16 arithmetic

CORES = {  # device -> (cores, GHz, kind), fastest first
    "snapdragon-888": [(1, 2.84, "X1"), (3, 2.42, "A78"), (4, 1.8, "A55")],
    "snapdragon-8-gen2": [(1, 3.2, "X3"), (4, 2.8, "A715"), (3, 2.0, "A510")],
    "snapdragon-8-gen3": [(1, 3.3, "X4"), (5, 3.2, "A710"), (2, 2.3, "A520")],
    "rpi-3b-plus": [(4, 1.4, "A53")],
    "rpi-zero-2w": [(4, 1.0, "A53")],
    "rpi-4b": [(4, 1.8, "A72")],
    "rpi-5": [(4, 2.4, "A76")],
    "rk3588": [(4, 2.4, "A76"), (4, 1.8, "A55")],
    "rk3576": [(4, 2.2, "A72"), (4, 1.8, "A53")],
    "rk3566": [(4, 1.8, "A55")],
    "jetson-nano-4gb": [(4, 1.43, "A57")],
    "jetson-nano-2gb": [(4, 1.43, "A57")],
    "jetson-tx2": [(2, 2.0, "Denver2"), (4, 2.0, "A57")],
    "jetson-tx2-nx": [(2, 2.0, "Denver2"), (4, 2.0, "A57")],
    "jetson-xavier-nx-8gb": [(6, 1.9, "Carmel")],
    "jetson-agx-xavier": [(8, 2.26, "Carmel")],
    "jetson-orin-nano-4gb": [(6, 1.5, "A78")],
    "jetson-orin-nano-8gb": [(6, 1.5, "A78")],
    "jetson-orin-nano-8gb-super": [(6, 1.7, "A78")],
    "jetson-orin-nx-8gb": [(6, 2.0, "A78")],
    "jetson-orin-nx-16gb": [(8, 2.0, "A78")],
    "jetson-agx-orin-32gb": [(8, 2.2, "A78")],
    "jetson-agx-orin-64gb": [(12, 2.2, "A78")],
    "jetson-agx-thor": [(14, 2.6, "V3")],
    "coral-dev-board": [(4, 1.5, "A53")],
    "intel-n100": [(4, 3.4, "Gracemont")],
    "intel-n5105": [(4, 2.9, "Tremont")],
    "intel-core-ultra-155h": [(6, 4.8, "P"), (8, 3.8, "E")],
    "intel-i7-13700k": [(8, 5.3, "P"), (8, 4.2, "E")],
    "qcs6490": [(1, 2.7, "A78"), (3, 2.4, "A78"), (4, 1.9, "A55")],
}
GPUS = {  # device -> 10**9 operations/s in fp32 (TF32 from Ampere on), fp16, int8; of CUDA cores alone; clock, SMs
    "jetson-nano-4gb": (236, 472, 236, 236, 0.92, 1),
    "jetson-nano-2gb": (236, 472, 236, 236, 0.92, 1),
    "jetson-tx2": (666, 1330, 666, 666, 1.3, 2),
    "jetson-tx2-nx": (666, 1330, 666, 666, 1.3, 2),
    "jetson-xavier-nx-8gb": (845, 6800, 13_500, 845, 1.1, 6),
    "jetson-agx-xavier": (1410, 11_300, 22_600, 1410, 1.377, 8),
    "jetson-orin-nano-4gb": (2550, 5100, 10_200, 640, 0.625, 4),
    "jetson-orin-nano-8gb": (5100, 10_200, 20_500, 1280, 0.625, 8),
    "jetson-orin-nano-8gb-super": (8350, 16_700, 33_400, 2089, 1.02, 8),
    "jetson-orin-nx-8gb": (6250, 12_500, 25_100, 1567, 0.765, 8),
    "jetson-orin-nx-16gb": (7500, 15_000, 30_100, 1880, 0.918, 8),
    "jetson-agx-orin-32gb": (13_350, 26_700, 53_300, 3333, 0.93, 14),
    "jetson-agx-orin-64gb": (21_300, 42_600, 85_200, 5325, 1.3, 16),
    "jetson-agx-thor": (129_000, 258_000, 517_000, 8060, 1.57, 20),
    "nvidia-t4": (8100, 65_000, 130_000, 8100, 1.59, 40),
    "nvidia-l4": (60_500, 121_000, 242_000, 30_300, 2.04, 58),
    "nvidia-h200": (495_000, 989_000, 1_979_000, 67_000, 1.98, 132),
    "snapdragon-888": (1720, 3440, 3440, 1720, 0.84, 3),  # Adreno 660
    "snapdragon-8-gen2": (3480, 6960, 6960, 3480, 0.68, 6),  # Adreno 740
    "rk3588": (610, 1220, 1220, 610, 1.0, 4),  # Mali-G610 MP4
    "intel-n5105": (307, 614, 614, 307, 0.8, 3),  # UHD, 24 units
    "intel-n100": (288, 580, 580, 288, 0.75, 3),
}
NPUS = {  # device -> 10**9 operations/s in fp16, int8
    "qcs6490": (6000, 12_000),
    "qcs8550": (17_000, 48_000),
    "qcs9075": (17_000, 48_000),
    "snapdragon-8-gen2": (17_000, 48_000),
    "snapdragon-8-gen3": (22_000, 60_000),
    "snapdragon-8-elite": (28_000, 80_000),
    "snapdragon-x-elite": (17_000, 45_000),
    "rk3588": (1000, 2000),  # one core of three
    "rk3576": (1500, 3000),  # one core of two
    "rk3566": (500, 1000),
    "hailo-8": (13_000, 26_000),
    "apple-a17-pro": (17_500, 35_000),
    "coral-dev-board": (2000, 4000),
    "coral-usb": (2000, 4000),
}
MCUS = {  # device -> int8 operations per second, 10**9; fp32 is a quarter
    "esp32": 0.12,  # a quarter of a multiply-add per cycle: no SIMD
    "esp32-s3": 0.96,  # two of the 16 that its SIMD promises, as ESP-NN's kernels reach
    "esp32-p4": 0.72,  # one, from the same kernels
    "stm32h7a3-280mhz": 1.12,
    "stm32h743": 1.92,
    "stm32l4r5-120mhz": 0.24,
    "renesas-ra8d1-480mhz": 7.68,
}
BANDWIDTHS = {  # GB/s
    "snapdragon-888": 51.2, "snapdragon-8-gen2": 67.2, "snapdragon-8-gen3": 76.8, "snapdragon-8-elite": 84.8,
    "snapdragon-x-elite": 135, "qcs8550": 67.2, "qcs9075": 76.8, "qcs6490": 25.6, "rpi-3b-plus": 3.6,
    "rpi-zero-2w": 3.6, "rpi-4b": 12.8, "rpi-5": 17.1, "rk3588": 34, "rk3576": 17, "rk3566": 8.5,
    "jetson-nano-4gb": 25.6, "jetson-nano-2gb": 25.6, "jetson-tx2": 59.7, "jetson-tx2-nx": 51.2,
    "jetson-xavier-nx-8gb": 59.7, "jetson-agx-xavier": 136.5, "jetson-orin-nano-4gb": 34,
    "jetson-orin-nano-8gb": 68, "jetson-orin-nano-8gb-super": 102.4, "jetson-orin-nx-8gb": 102.4,
    "jetson-orin-nx-16gb": 102.4, "jetson-agx-orin-32gb": 204.8, "jetson-agx-orin-64gb": 204.8,
    "jetson-agx-thor": 273, "nvidia-t4": 320, "nvidia-l4": 300, "nvidia-h200": 4800, "intel-n100": 38.4,
    "intel-n5105": 46.9, "intel-core-ultra-155h": 89.6, "intel-i7-13700k": 89.6, "hailo-8": 40,
    "apple-a17-pro": 51.2, "coral-dev-board": 12.8, "coral-usb@rpi-3b-plus": 12.8, "coral-usb@rpi-4b": 12.8,
    "coral-usb@x86_64": 12.8, "coral-usb": 12.8, "esp32": 0.04, "esp32-s3": 0.16, "esp32-p4": 0.4,
    "stm32h7a3-280mhz": 1.1, "stm32h743": 1.9, "stm32l4r5-120mhz": 0.24, "renesas-ra8d1-480mhz": 1.9,
}  # fmt: skip


SILICON = {  # device -> what it shares with other devices; the core's kind for a CPU
    "jetson-nano-2gb": "maxwell", "jetson-nano-4gb": "maxwell", "jetson-tx2": "pascal", "jetson-tx2-nx": "pascal",
    "jetson-xavier-nx-8gb": "volta", "jetson-agx-xavier": "volta", "snapdragon-888": "adreno",
    "snapdragon-8-gen2": "adreno",
}  # fmt: skip


def silicon(device: str, unit: str) -> str:
    """The kind of core that runs the network."""
    plain = device.split("@")[0]
    if unit == "cpu" and plain in CORES:
        return CORES[plain][0][2]
    return SILICON.get(plain, "orin" if "-orin-" in plain else plain)


@dataclass(frozen=True)
class Speed:
    """What stands for a device in the fit. Zero: not known."""

    gmacs_per_s: float  # 10**9 multiply-adds at the peak
    vector_gmacs_per_s: float  # without the units that multiply matrices, which depthwise layers cannot use
    gb_per_s: float
    launches_per_us: float  # relative to the other devices of the family


def speed(device: str, unit: str, precision: str, threads: int) -> Speed | None:
    """Peak of the unit at the precision, with so many threads (0: all cores); None where the device is not known."""
    plain, bandwidth = device.split("@")[0], BANDWIDTHS.get(device)
    if bandwidth is None:
        return None
    index = {"fp32": 0, "fp16": 1, "int8": 2, "w8a16": 1}[precision]
    if plain in MCUS:
        peak = MCUS[plain] / 2 / (1 if precision == "int8" else 4)
        return Speed(peak, peak, bandwidth, MCUS[plain])
    if unit == "cpu" and plain in CORES:
        return _cpu(plain, precision, threads, bandwidth)
    if unit == "gpu" and plain in GPUS:
        cuda, clock, sms = GPUS[plain][3:]
        vector = cuda / 2 * (1 if precision == "fp32" else 2)
        return Speed(GPUS[plain][index] / 2, vector, bandwidth, min(clock * sms**0.5 / 2.9, 1.5))
    if unit == "npu" and plain in NPUS:
        half, byte = NPUS[plain]
        peak = (half if index < 2 else byte) / 2
        return Speed(peak, peak / 8, bandwidth, byte / 48_000)
    return None


def _cpu(device: str, precision: str, threads: int, bandwidth: float) -> Speed:
    cores = [(ghz, kind) for count, ghz, kind in CORES[device] for _ in range(count)][: threads or None]

    def factor(kind: str) -> float:
        """Operations per cycle over those in fp32."""
        if precision == "fp16":
            return 2.0 if kind in HALF else 1.0
        if precision == "int8":
            return 4.0 if kind in DOT else 2.0
        return 2.0 if precision == "w8a16" else 1.0

    gflops = sum(ghz * WIDTH[kind] * factor(kind) for ghz, kind in cores)
    share = min(1.0, 0.5 + 0.5 * (len(cores) - 1) / 3)  # one core draws about half of the bandwidth
    return Speed(gflops / 2, gflops / 2, bandwidth * share, cores[0][0] * WIDTH[cores[0][1]] / 16)
