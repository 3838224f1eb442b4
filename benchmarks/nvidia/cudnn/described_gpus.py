"""GPUs as cuDNN's documentation of compilation without a device describes them: the fields of `cudaDeviceProp`."""

from collections.abc import Mapping
from typing import Any

ALIKE = {
    "cudaDeviceId": 0,
    "driverVer": 13000,
    "maxGridSize": [2147483647, 65535, 65535],
    "maxBlockSize": [1024, 1024, 64],
    "regsPerBlock": 65536,
    "smCountOrigin": 0,
    "warpSize": 32,
    "maxSharedMemoryPerBlock": 49152,
    "oversizedSharedMemoryPerBlock": 0,
    "reservedSharedMemoryPerBlock": 1024,
    "maxRegistersPerSM": 65536,
    "maxThreadsPerBlock": 1024,
    "pciDeviceId": 0,
    "isTccDriver": 0,
    "supportCoopLaunch": 1,
}


def describe_gpu(
    name: str,
    version: int,
    processors: int,
    gigabytes: int,
    shared: int,
    threads: int,
    blocks: int,
    clocks: tuple[int, int],
    bus: int,
    cache: int,
) -> dict[str, Any]:
    """version: of the architecture times 10, such as 860 for sm86. shared: bytes of shared memory of a block, at most.
    threads, blocks: of a multiprocessor, at most. clocks: of processors and memory in MHz. bus: in bits. cache: the
    second level, in MiB."""
    return ALIKE | {
        "deviceVer": version,
        "deviceName": name,
        "totalGlobalMem": gigabytes * 2**30,
        "multiProcessorCount": processors,
        "maxSharedMemoryPerBlockOptin": shared,
        "maxCtasPerSM": blocks,
        "maxThreadsPerSM": threads,
        "smClockRateKHz": 1000 * clocks[0],
        "memClockRateKHz": 1000 * clocks[1],
        "memoryBusWidth": bus,
        "l2CacheSize": cache * 2**20,
    }


GPUS: Mapping[str, dict[str, Any]] = {
    "H100": describe_gpu("H100", 900, 132, 80, 232_448, 2048, 32, (1980, 2619), 5120, 50),
    "Orin": describe_gpu("Orin", 870, 16, 32, 166_912, 1536, 16, (1300, 3200), 256, 4),
    "RTX 3060": describe_gpu("RTX 3060", 860, 28, 12, 101_376, 1536, 16, (1777, 7501), 192, 3),
}
