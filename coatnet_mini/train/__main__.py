"""The training command: `python -m coatnet_mini.train [preset] [--flags]`.

One laptop, one GPU or many: under `torchrun -m coatnet_mini.train` or `accelerate launch -m
coatnet_mini.train` the same command trains on all the processes that were started.
"""

import shlex
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

REQUIRED = ("accelerate", "datasets", "kornia", "psutil", "tqdm", "tyro", "tensorboard")


def main(arguments: list[str] | None = None) -> int:
    """Train; returns the exit code, 0 only if the network was trained and stored."""
    arguments = sys.argv[1:] if arguments is None else arguments
    try:
        recipe, preset = read_arguments(arguments)
        results, folder = run(recipe, preset, arguments)
    except ModuleNotFoundError as error:
        if error.name not in REQUIRED:
            raise
        return fail(f"{error.name} is not installed; pip install 'coatnet-mini[train]'")
    except (ValueError, OSError, ArithmeticError) as error:
        return fail(" ".join(str(error).split()))
    except RuntimeError as error:
        if not is_out_of_memory(error):
            raise
        return fail(
            "not enough memory; a smaller --batch-size or --image-size, or more of --accumulate, "
            "needs less"
        )
    except Interrupted as error:
        print(error, file=sys.stderr)
        return error.code
    except KeyboardInterrupt:
        print("stopped at once; go on from the last checkpoint with --resume", file=sys.stderr)
        return 130
    if results:
        print(report(results, recipe, folder))
    return 0


class Interrupted(Exception):
    """A run that was stopped from outside and can be resumed."""

    def __init__(self, text: str, code: int):
        super().__init__(text)
        self.code = code


def is_out_of_memory(error: RuntimeError) -> bool:
    """Torch has a class of its own for a GPU's memory, and none for a CPU's."""
    return type(error).__name__ == "OutOfMemoryError" or "can't allocate memory" in str(error)


def fail(text: str) -> int:
    print(f"error: {text}", file=sys.stderr)
    return 1


def read_arguments(arguments: list[str]):
    """The recipe and the preset that it is based on, from the command line."""
    import tyro

    from coatnet_mini.train.recipe import ABOUT, PRESETS

    rest = list(arguments)
    preset = rest.pop(0) if rest and not rest[0].startswith("-") else "digits"
    if preset not in PRESETS:
        raise ValueError(f"unknown preset {preset!r}; choose from {', '.join(PRESETS)}")
    listed = "\n".join(f"  {name}: {about}" for name, about in ABOUT.items())
    recipe = tyro.cli(
        type(PRESETS[preset]),
        prog=f"python -m coatnet_mini.train [{'|'.join(PRESETS)}]",
        description=f"Train a network of coatnet_mini on images. Presets:\n\n{listed}\n\n"
        f"The defaults below are those of the preset {preset!r}.",
        default=PRESETS[preset],
        args=rest,
    )
    return recipe, preset


def run(recipe, preset: str, arguments: list[str]) -> tuple[dict, Path]:
    """Train as the recipe says; the results are for the first process, others return none."""
    from coatnet_mini.train.run import Run, Stopped

    command = shlex.join(["python", "-m", "coatnet_mini.train", *arguments])
    folder = folder_of(recipe.output, preset)
    training = Run(recipe, folder, {"command": command, "versions": versions()})
    try:
        results = training.train()
    except Stopped as stop:
        raise Interrupted(f"{stop}; go on with --resume", 130) from stop
    return (results if training.is_main else {}), folder


def folder_of(output: str, preset: str) -> Path:
    """runs/{preset} → runs/digits"""
    try:
        return Path(output.format(preset=preset)).expanduser()
    except (LookupError, ValueError, AttributeError):
        raise ValueError(f"output is {output!r}; only {{preset}} is filled in") from None
    except RuntimeError as error:
        raise ValueError(f"output is {output!r}: {error}") from error


def versions() -> dict[str, str]:
    found = {"python": sys.version.split()[0]}
    for name in ("torch", "numpy", "scikit-learn", *REQUIRED):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def report(results: dict, recipe, folder: Path) -> str:
    """The table at the end."""
    from coatnet_mini.train.log import table

    corrupt = results["corrupt_train_images"] + results["corrupt_test_images"]
    counts = [results[name] for name in ("train_images", "test_images")]
    trained, held_out = ("a stream" if n is None else f"{n:,} images" for n in counts)
    rows = {
        "network": f"{recipe.model}, {results['parameters']:,} parameters",
        "trained on": f"{recipe.data}, {trained}, {results['step']:,} steps of {recipe.batch_size}",
        "held out": held_out,
        "accuracy": f"{results['accuracy']:.2%} of the held-out images",
        "loss": f"{results['test_loss']:.4f} on them",
        "time": f"{results['seconds']:.0f} s, {results['images_per_second']:,.0f} images/s on "
        f"{results['processes']} × {results['device']}",
        "waiting for data": f"{results['loader_share']:.1%} of the time",
        "corrupt images": f"{corrupt} skipped",
        "stored in": str(folder / "network"),
    }
    return table(rows)


if __name__ == "__main__":
    sys.exit(main())
