"""What surrounds a training step: the machine, checkpoints' checks, augmentation, evaluation."""

import json
import os
import socket
import sys
import time
from types import SimpleNamespace

import psutil
import pytest
import torch
from accelerate.state import AcceleratorState, PartialState
from torch import nn

from coatnet_mini.images import normalize
from coatnet_mini.train import machine
from coatnet_mini.train.augment import Augment, rand_augment, random_changes
from coatnet_mini.train.checkpoint import check_like, runs, save_run, step_of
from coatnet_mini.train.evaluation import centre, counts, evaluate
from coatnet_mini.train.learner import seed_step
from coatnet_mini.train.loading import IGNORED
from coatnet_mini.train.log import Metrics, table
from coatnet_mini.train.optimization import learning_rate, make_optimizer
from coatnet_mini.train.recipe import Recipe
from coatnet_mini.train.run import all_finite

# ---- The machine


def test_a_process_is_known_by_its_number_and_its_start():
    me = psutil.Process()
    for late, alive in ((0, True), (0.9, True), (-0.9, True), (1, False), (-1, False)):
        assert machine.is_alive(me.pid, me.create_time() + late) == alive
    assert not machine.is_alive(2**22 + 1, 0.0)  # above the largest number that Linux gives


def test_a_process_that_may_not_be_looked_at_is_there(monkeypatch):
    def denied(pid):
        raise psutil.AccessDenied(pid)

    monkeypatch.setattr(psutil, "Process", denied)
    assert machine.is_alive(1, 0.0)


@pytest.mark.parametrize("written", ["", "{", "[1]", '{"pid": 1}', '{"pid": "x", "started": 0, '])
def test_a_lock_that_says_nothing_is_respected_for_ten_seconds(written, tmp_path):
    path = tmp_path / machine.LOCK
    path.write_text(written)
    for age, held in ((8, True), (10.5, False)):
        os.utime(path, (time.time() - age,) * 2)
        if held:
            with pytest.raises(ValueError, match=r"has just been taken by another run$"):
                machine.refuse_if_held(path)
        else:
            machine.refuse_if_held(path)


def test_a_lock_says_who_holds_it_and_what_can_be_done(tmp_path):
    path = tmp_path / machine.LOCK
    with machine.locked(tmp_path):
        me, holder = psutil.Process(), json.loads(path.read_text())
        here = socket.gethostname()
        assert holder == {"pid": me.pid, "started": me.create_time(), "host": here}
        with pytest.raises(ValueError) as error:
            machine.refuse_if_held(path)
    held = f"{tmp_path} is in use by process {me.pid} on"
    assert str(error.value) == f"{held} {here}; wait for it, or choose another --output"
    path.write_text(json.dumps({**holder, "host": "elsewhere"}))
    with pytest.raises(ValueError) as error:
        machine.refuse_if_held(path)
    assert str(error.value) == f"{held} elsewhere; if it is no more, delete {path}"


def test_the_lock_of_a_run_that_is_no_more_is_taken_over(tmp_path, monkeypatch):
    path, me = tmp_path / machine.LOCK, psutil.Process()
    gone = {"pid": me.pid, "started": me.create_time() - 9, "host": socket.gethostname()}
    path.write_text(json.dumps(gone))
    with machine.locked(tmp_path):
        assert json.loads(path.read_text())["started"] == me.create_time()
        path.unlink()  # by a reader who thought it left over
    path.write_text("")
    monkeypatch.setattr(machine, "refuse_if_held", lambda path: path.unlink())  # ended just now
    with machine.locked(tmp_path):
        assert path.exists()
    assert not path.exists()


def test_a_state_of_accelerates_own_that_was_there_before_is_left():
    PartialState(cpu=True)
    try:
        with machine.accelerator_of(Recipe(device="cpu")) as accelerator:
            assert accelerator.device.type == "cpu"
        assert PartialState._shared_state
    finally:
        AcceleratorState._reset_state(reset_partial_state=True)


@pytest.mark.parametrize("processes", [1, 2])
@pytest.mark.parametrize("kind", ["NO", "MULTI_CPU", "MULTI_GPU", "FSDP", "DEEPSPEED"])
def test_processes_may_share_gradients_and_nothing_else(kind, processes, monkeypatch):
    made = []
    monkeypatch.setattr(machine, "time", SimpleNamespace(sleep=lambda s: made.append("slept")))

    class Accelerator:
        distributed_type, num_processes = SimpleNamespace(value=kind), processes

        def __init__(self, **options):
            made.append(options)

        def wait_for_everyone(self):
            made.append("waited")

        def end_training(self):
            made.append("ended")

    monkeypatch.setattr(machine, "Accelerator", Accelerator)
    options = dict(cpu=True, mixed_precision="bf16", step_scheduler_with_optimizer=False)
    if kind in ("FSDP", "DEEPSPEED"):
        said = f"^{kind} is not supported; every process holds the whole network$"
        with (
            pytest.raises(ValueError, match=said),
            machine.accelerator_of(Recipe(device="cpu", precision="bf16")),
        ):
            pytest.fail("it was allowed")
        assert made == [options]
    else:
        with machine.accelerator_of(Recipe(device="cpu", precision="bf16")) as accelerator:
            assert isinstance(accelerator, Accelerator)
        assert made == [options, "waited", *["slept"] * (processes > 1), "ended"]
    assert not PartialState._shared_state  # as before


# ---- Checkpoints


@pytest.mark.parametrize(
    "found, said",
    [
        ({"a": 1}, "its has no b"),
        ({"a": 1, "b": torch.zeros(2, 3), "c": 0, "d": 0}, "its has an unknown c"),
        ({"a": 1.5, "b": torch.zeros(2, 3)}, "its a is float there and int here"),
        ({"a": 1, "b": None}, "its b is NoneType there and float32 (2, 3) here"),
        ({"a": 1, "b": torch.zeros(3, 2)}, "its b is float32 (3, 2) there and float32 (2, 3) here"),
        ({"a": 1, "b": torch.zeros(2, 3).long()}, "its b is int64 (2, 3) there and float32 (2, 3)"),
        ([1], "its is list there and dict here"),
    ],
)
def test_a_state_that_is_built_otherwise_is_described(found, said):
    wanted = {"a": 7, "b": torch.ones(2, 3)}
    with pytest.raises(TypeError) as error:
        check_like(found, wanted, "its")
    assert str(error.value).startswith(said)
    check_like({"a": 0, "b": torch.zeros(2, 3)}, wanted, "its")


def test_a_run_that_goes_back_keeps_the_checkpoint_before(tmp_path):
    """Of two runs in a folder, as after a damaged checkpoint, the steps decide what stays."""
    for step in (10, 9, 123_456_789, 11):
        save_run(tmp_path, step, {"step": step})
    assert [step_of(path) for path in runs(tmp_path)] == [11, 123_456_789]
    assert runs(tmp_path)[0].name.startswith("step-00000011-")


def test_a_state_is_finite_if_all_its_tensors_are():
    for bad in (torch.nan, torch.inf, -torch.inf):
        assert not all_finite({"a": [torch.zeros(2), {"b": torch.tensor([0, bad])}]})
    assert all_finite({"a": [torch.zeros(2), None, "nan", float("nan")], "b": torch.arange(2)})


# ---- The log


def test_a_table_has_its_values_in_one_column():
    assert table({"a": "1", "long name": "2"}) == "  a          1\n  long name  2"


def test_a_line_that_was_cut_off_is_no_line(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 1, "loss": 0.5}\n{"step": 2, "loss": 0.25}\n{"step": 3, "lo')
    metrics = Metrics(tmp_path, 2, tensorboard=False)
    metrics.write(3, {"loss": 0.125})
    metrics.close()
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert lines == [{"step": n, "loss": 0.5**n} for n in (1, 2, 3)]


# ---- The learning rate


def test_a_run_shorter_than_its_warm_up_ends_at_the_peak():
    recipe = Recipe(lr=1.0, min_lr=0.1, warmup_steps=10)
    assert [learning_rate(step, 4, recipe) for step in range(4)] == [0.25, 0.5, 0.75, 1.0]
    assert learning_rate(0, 1, Recipe(lr=1.0, min_lr=0.1, warmup_steps=0)) == pytest.approx(0.1)
    assert learning_rate(9, 4, Recipe(lr=1.0, min_lr=0.1)) == pytest.approx(0.1)  # and stays


def test_the_optimizer_begins_at_the_peak_rate():
    optimizer = make_optimizer(nn.Linear(2, 2), Recipe(lr=0.3, weight_decay=0.2))
    groups = [(g["lr"], g["initial_lr"], g["weight_decay"]) for g in optimizer.param_groups]
    assert groups == [(0.3, 0.3, 0.2), (0.3, 0.3, 0.0)]


# ---- Augmentation


def spot(side=17, count=256):
    """Images that are dark but for the middle pixel."""
    images = torch.zeros(count, 1, side, side, dtype=torch.uint8)
    images[..., side // 2, side // 2] = 255
    return images


def middles(images):
    """Where the ink of each image lies, from the centre: (N, 2), rows down and columns right."""
    side = images.shape[-1]
    places = torch.arange(side) - side // 2
    ink = images[:, 0] / images[:, 0].sum((1, 2), keepdim=True)
    return torch.stack([ink.sum(2) @ places.float(), ink.sum(1) @ places.float()], 1)


def changed(images, **flags):
    flags = {"image_size": images.shape[-1], "channels": images.shape[1], **flags}
    return Augment(Recipe(**flags))(images)


def test_a_shift_is_up_to_a_part_of_the_side_both_ways():
    moved = middles(changed(spot(), translate=0.2))
    largest = 0.2 * 17
    for axis in (0, 1):
        assert -largest - 0.01 < moved[:, axis].min() < -0.8 * largest
        assert 0.8 * largest < moved[:, axis].max() < largest + 0.01
    assert abs(torch.corrcoef(moved.T)[0, 1]) < 0.3  # down and to the right, each by its own


def test_a_zoom_enlarges_and_shrinks():
    square = torch.zeros(256, 1, 33, 33, dtype=torch.uint8)
    square[..., 11:22, 11:22] = 255
    areas = changed(square, zoom=0.3).sum((1, 2, 3)) / 11**2
    assert 0.7**2 * 0.9 < areas.min() < 0.75**2 and 1.25**2 < areas.max() < 1.3**2 * 1.1


def test_a_turn_is_by_up_to_so_many_degrees_both_ways():
    line = torch.zeros(256, 1, 33, 33, dtype=torch.uint8)
    line[..., 16, 26] = 255
    moved = middles(changed(line, rotate=30.0))
    angles = torch.atan2(moved[:, 0], moved[:, 1]).rad2deg()
    assert -30.5 < angles.min() < -25 and 25 < angles.max() < 30.5
    assert torch.allclose(moved.norm(dim=1), torch.full((256,), 10.0), atol=0.3)


def test_a_crop_keeps_at_least_its_part_of_the_area():
    """Of a slope from left to right; what is seen of it tells how wide the crop was."""
    slope = torch.linspace(0, 254, 64).round().to(torch.uint8).expand(256, 1, 64, 64)
    seen = changed(slope, crop_scale=0.5, image_size=32)
    assert seen.shape == (256, 1, 32, 32)
    widths = (seen.amax((1, 2, 3)) - seen.amin((1, 2, 3))) * 255 / 254
    assert widths.max() > 0.9  # up to the whole image
    assert widths.min() > (0.5 * 3 / 4) ** 0.5 - 0.05  # of proportions from 3:4 to 4:3


def test_half_of_the_images_are_mirrored():
    one_sided = torch.zeros(400, 1, 4, 4, dtype=torch.uint8)
    one_sided[..., 0] = 255
    share = changed(one_sided, flip=True)[..., 0].mean()
    assert 0.4 < share < 0.6


@pytest.mark.parametrize("channels", [1, 3])
def test_rand_augment_draws_from_kornias_list_but_for_colours_of_grey_images(channels, monkeypatch):
    from kornia.augmentation.auto.rand_augment.rand_augment import default_policy

    given = []
    monkeypatch.setattr("kornia.augmentation.auto.RandAugment", lambda *all: given.append(all))
    rand_augment(Recipe(channels=channels, rand_augment_layers=2, rand_augment_magnitude=10))
    names = [[name for name, *_ in operation] for operation in default_policy]
    assert ["color"] in names
    kept = [op for op in default_policy if channels == 3 or op[0][0] != "color"]
    assert given == [(2, 10, kept)]


def test_images_stay_between_black_and_white_whatever_is_done_to_them():
    class Stretched(nn.Module):
        def forward(self, images):
            return 4 * images - 1

    augment = Augment(Recipe(channels=1))
    augment.changes = Stretched()
    images = torch.tensor([0, 51, 102, 204, 255], dtype=torch.uint8).reshape(5, 1, 1, 1)
    assert augment(images).flatten().tolist() == pytest.approx([0, 0, 0.6, 1, 1])


def test_a_recipe_without_changes_needs_no_kornia(monkeypatch):
    for name in ("kornia", "kornia.augmentation"):
        monkeypatch.setitem(sys.modules, name, None)
    assert random_changes(Recipe()) is None
    with pytest.raises(ModuleNotFoundError):
        random_changes(Recipe(flip=True))


def test_every_piece_of_work_has_random_numbers_of_its_own():
    drawn = set()
    for piece in ((0, 0, 0, 0), (1, 0, 0, 0), (0, 1, 0, 0), (0, 0, 1, 0), (0, 0, 0, 1)):
        seed_step(*piece)
        drawn.add(torch.rand(()).item())
    assert len(drawn) == 5


# ---- Evaluation


class Alone:
    """An accelerator of one process on a CPU."""

    num_processes, process_index, device = 1, 0, torch.device("cpu")

    def autocast(self):
        return torch.autocast("cpu", enabled=False)

    def reduce(self, totals, how):
        assert how == "sum"
        return totals


class Batches(list):
    def evaluate(self, n, rank, processes):
        assert (rank, processes) == (0, 1)
        return iter(self)


def test_accuracy_and_loss_are_means_over_the_images_that_can_be_read():
    net = nn.Sequential(nn.Flatten(), nn.Dropout(0.9), nn.Linear(12, 3))
    batches = Batches()
    for labels in ([0, 2, IGNORED, 1], [2, IGNORED]):
        shape = (len(labels), 3, 5, 4)
        batches.append((torch.randint(0, 256, shape, dtype=torch.uint8), torch.tensor(labels)))
    pixels = torch.cat([images[..., 1:3, 1:3] for images, _ in batches])
    labels = torch.cat([labels for _, labels in batches])
    good = labels != IGNORED
    logits = net.eval()(normalize(pixels[good]))
    right = (logits.argmax(1) == labels[good]).double().mean().item()
    loss = nn.functional.cross_entropy(logits, labels[good]).item()
    found = evaluate(net.train(), batches, 2, Alone())
    assert found == {"accuracy": right, "test_loss": pytest.approx(loss, rel=1e-6)}
    with pytest.raises(ValueError, match=r"^none of the held-out images can be read$"):
        evaluate(net, Batches([(pixels[:1], torch.tensor([IGNORED]))]), 2, Alone())


def test_counts_by_hand():
    logits, labels = torch.tensor([[1.0, 0], [0, 3], [0, 0]]), torch.tensor([0, 0, IGNORED])
    right, loss, n = counts(logits, labels).tolist()
    e = torch.e
    assert (right, n) == (1, 2)
    assert loss == pytest.approx(-torch.log(torch.tensor([e / (e + 1), 1 / (1 + e**3)])).sum())


@pytest.mark.parametrize("side, size, first", [(8, 8, 0), (8, 4, 2), (7, 4, 1), (9, 4, 2)])
def test_the_centre_is_in_the_middle(side, size, first):
    image = torch.arange(side * side).reshape(1, 1, side, side)
    row = torch.arange(first, first + size)
    assert torch.equal(centre(image, size)[0, 0], row[:, None] * side + row)
