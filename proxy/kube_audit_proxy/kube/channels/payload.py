"""A piece of a stream that is read in parts or not at all, so that bulk data costs no copy and no unmasking."""


class Payload:
    """Bytes of a stream. Where `mask` is not empty they are masked (RFC 6455, section 5.3).

    `phase` is the index in the mask, from 0 to 3, that belongs to the first byte. No dataclass: there is one for each
    frame.
    """

    __slots__ = ("data", "mask", "phase")

    def __init__(self, data: memoryview, mask: bytes = b"", phase: int = 0) -> None:
        self.data = data
        self.mask = mask
        self.phase = phase

    def __len__(self) -> int:
        """Return the number of bytes."""
        return len(self.data)

    def read(self, start: int, stop: int) -> bytes:
        """Return the bytes from `start` up to `stop` unmasked."""
        part = self.data[start:stop].tobytes()
        if not self.mask:
            return part
        shift = (self.phase + start) % 4
        key = (self.mask[shift:] + self.mask[:shift]) * (len(part) // 4 + 1)
        unmasked = int.from_bytes(part, "little") ^ int.from_bytes(key[: len(part)], "little")
        return unmasked.to_bytes(len(part), "little")
