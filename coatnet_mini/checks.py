"""What a configuration may hold: types, ranges and sizes, each refused in one line.

A configuration comes from Python, from the training command or from a stored network's
config.json. All three are checked here, before anything is built, so that a network that no
machine holds is an answer and not a hang.
"""

from dataclasses import MISSING, dataclass, fields
from math import isfinite
from reprlib import repr as short  # of a list of a million entries the first six

LARGEST = 10**9  # of any integer in a configuration


@dataclass
class Limits:
    """How large a network may be; `checks.limits.parameters = 10**10` raises one of them.

    The largest of the family, CoAtNet-7 at 512 pixels, has 2.4·10⁹ parameters and 2.9·10⁹
    activations in 60 blocks.

    Args:
        blocks: of all stages together.
        parameters: numbers to be learned.
        activations: numbers that all layers write for one image of `image_size`, the attention
            matrices among them.
    """

    blocks: int = 1_000
    parameters: int = 3 * 10**9
    activations: int = 10**10


limits = Limits()


def check_size(**sizes: int) -> None:
    """Refuse estimates above `limits`, named as there."""
    for name, size in sizes.items():
        most = getattr(limits, name)
        if size > most:
            raise ValueError(
                f"the network would have {size:.2g} {name}; the limit is {most:.2g}, which "
                f"coatnet_mini.checks.limits.{name} raises"
            )


def configure(cls, values: dict):
    """A configuration of the dataclass `cls` from its fields by name."""
    known = {field.name: field for field in fields(cls)}
    for name in values:
        if name not in known:
            raise ValueError(f"unknown option {short(name)}; choose from {', '.join(known)}")
    for name, field in known.items():
        if field.default is MISSING and name not in values:
            raise ValueError(f"{cls.__name__} needs {name}")
    return cls(**values)


def one_of(option: str, value: str, allowed) -> str:
    """value, if it is allowed; else a ValueError that says what is."""
    if not isinstance(value, str) or value not in allowed:
        raise ValueError(f"{option} is {short(value)}; choose from {', '.join(allowed)}")
    return value


def is_whole(value) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def check_positive(owner: str, config, *names: str) -> None:
    """Refuse fields that are not integers from 1 to `LARGEST`; `owner` begins their names."""
    for name in names:
        value = getattr(config, name)
        if not is_whole(value) or value < 1:
            raise ValueError(f"{owner}{name} is {short(value)}; it must be a positive integer")
        if value > LARGEST:
            raise ValueError(f"{owner}{name} is {short(value)}; it must be at most {LARGEST:,}")


def check_flags(config, *names: str) -> None:
    """Refuse fields that are neither True nor False."""
    for name in names:
        value = getattr(config, name)
        if not isinstance(value, bool):
            raise ValueError(f"{name} is {short(value)}; it must be true or false")


def check_fraction(name: str, value: float, *, zero: bool = True, one: bool = True) -> None:
    """Refuse what is no number from 0 to 1; `zero` and `one` say whether these two are allowed."""
    number = isinstance(value, int | float) and not isinstance(value, bool) and isfinite(value)
    if not (number and 0 <= value <= 1 and (zero or value > 0) and (one or value < 1)):
        low, high = "at least" if zero else "above", "at most" if one else "below"
        raise ValueError(f"{name} is {short(value)}; it must be {low} 0 and {high} 1")


def pair(size) -> tuple[int, int]:
    """(H, W) of an image size given as one int or as two."""
    sides = tuple(size) if isinstance(size, tuple | list) else (size, size)
    if len(sides) != 2 or not all(is_whole(side) and 0 < side <= LARGEST for side in sides):
        raise ValueError(
            f"image_size is {short(size)}; it must be a positive integer or a pair (H, W)"
        )
    return sides


def check_image_size(size: tuple[int, int], stride: int) -> None:
    """Refuse images that the strides of a network do not divide."""
    if size[0] % stride or size[1] % stride or not all(size):
        raise ValueError(
            f"image size {size[0]}×{size[1]} does not fit: both sides must be "
            f"multiples of {short(stride)}"
        )
