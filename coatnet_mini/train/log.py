"""What a run writes down: metrics as JSON lines and for TensorBoard, and a table at the end."""

import json
from pathlib import Path

FILE = "metrics.jsonl"


class Metrics:
    """Appends to `metrics.jsonl`; a run resumed at a step first drops what came after it."""

    def __init__(self, folder: Path, step: int, tensorboard: bool):
        self.path = folder / FILE
        kept = [line for line in self.lines() if json.loads(line)["step"] <= step]
        self.path.write_text("".join(kept), encoding="utf-8")
        self.writer = None
        if tensorboard:
            from torch.utils.tensorboard import SummaryWriter

            self.writer = SummaryWriter(folder / "tensorboard", purge_step=step + 1)

    def lines(self) -> list[str]:
        if not self.path.exists():
            return []
        lines = self.path.read_text(encoding="utf-8").splitlines(keepends=True)
        return [line for line in lines if line.endswith("}\n")]  # the last may have been cut off

    def write(self, step: int, values: dict[str, float]) -> None:
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps({"step": step, **values}) + "\n")
        if self.writer is not None:
            for name, value in values.items():
                self.writer.add_scalar(name, value, step)

    def close(self) -> None:
        if self.writer is not None:
            self.writer.close()


def table(rows: dict[str, str]) -> str:
    width = max(map(len, rows))
    return "\n".join(f"  {name:<{width}}  {value}" for name, value in rows.items())
