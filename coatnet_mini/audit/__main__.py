"""`python -m coatnet_mini.audit NAME [--like NAME]`: audit a network of ours, or of timm's.

NAME is one of `list_models()`, or timm:coatnet_0_224 if timm is installed. Without --like it is
held to the paper's network that its name begins with. The exit code is 0 if no check failed.
"""

import argparse
import re
import sys

from coatnet_mini.audit import audit
from coatnet_mini.audit.subject import REFUSALS
from coatnet_mini.coatnet import FAMILY, CoAtNetConfig
from coatnet_mini.models import create_model


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser("python -m coatnet_mini.audit", description=__doc__)
    parser.add_argument("name")
    parser.add_argument("--like", help="the paper's network that it is meant to be")
    options = parser.parse_args(arguments)
    try:
        like = options.like or meant(options.name)
        report = audit(maker(options.name, like), like)
    except REFUSALS as error:
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    print(report)
    return 1 if report.failed else 0


def meant(name: str) -> str:
    """The paper's network in a name: timm:coatnet_0_224 is meant to be coatnet_0."""
    bare = name.removeprefix("timm:")
    numbered = re.search(r"coatnet_(?:\w+_)?([0-7])(?!\d)", bare)
    found = bare if bare in FAMILY else f"coatnet_{numbered[1]}" if numbered else None
    if found is None:
        raise ValueError(f"cannot tell what {name!r} is meant to be: say it with --like")
    return found


def maker(name: str, like: str):
    """A function from an image size to the network."""
    if not name.startswith("timm:"):
        return lambda size: create_model(
            name, image_size=size, in_channels=CoAtNetConfig(**FAMILY[like]).in_channels
        )
    try:
        import timm
    except ImportError as error:
        raise ValueError("timm is not installed") from error
    bare = name.removeprefix("timm:")
    return lambda size: timm.create_model(bare, img_size=size)


if __name__ == "__main__":
    sys.exit(main())
