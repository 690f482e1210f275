from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.campaign.plan import Plan, make_plan
from benchmarks.campaign.spec import load_spec
from pretrain.data.catalog import Catalog
from pretrain.runtime.errors import InputError

CATALOG = "tiny: {format: shapes, size: 32, train: 64, test: 32, seed: 0}\n"
SPEC = """\
name: small
pretrain:
  fast: {recipe: shapes_demo, data: tiny, seeds: [0, 1]}
checkpoints:
  random: {backbone: cifar_resnet20, init: random}
evaluate:
  - {task: knn, data: tiny, seeds: [0, 1]}
"""


def plan_of(folder: Path, text: str) -> Plan:
    (folder / "catalog.yaml").write_text(CATALOG)
    path = folder / "spec.yaml"
    path.write_text(text)
    return make_plan(load_spec(path), Catalog.load(folder / "catalog.yaml"))


def test_a_plan_is_every_checkpoint_by_every_evaluation(tmp_path: Path) -> None:
    plan = plan_of(tmp_path, SPEC)
    pretraining = [run for run in plan.runs if run.request.kind == "pretrain"]
    assert [run.request.seed for run in pretraining] == [0, 1]
    evaluations = [run for run in plan.runs if run.request.kind == "evaluate"]
    assert [(run.label, run.request.seed) for run in evaluations] == [
        *(("fast", seed) for _ in pretraining for seed in (0, 1)),
        ("random", 0),
        ("random", 1),
    ]
    assert [run.needs for run in evaluations[:2]] == [(pretraining[0].run_id,)] * 2
    draws = [run.request.checkpoint.init_seed for run in evaluations[-2:] if run.request.checkpoint]
    assert draws == [0, 1]  # one draw of random weights for each evaluation seed
    assert len({run.run_id for run in plan.runs}) == 8


def test_ids_follow_what_goes_in_and_nothing_else(tmp_path: Path) -> None:
    before = {run.run_id for run in plan_of(tmp_path, SPEC).runs}
    launched = SPEC + "launch: {cluster: slurm, workers: 3, slurm: {partition: gpu, nodes: 2}}\n"
    assert {run.run_id for run in plan_of(tmp_path, launched).runs} == before
    renamed = {run.run_id for run in plan_of(tmp_path, SPEC.replace("fast:", "renamed:")).runs}
    assert {name for name in before if name.startswith("pretrain")} <= renamed
    catalog = tmp_path / "catalog.yaml"
    catalog.write_text(CATALOG.replace("seed: 0", "seed: 1"))
    other_data = make_plan(load_spec(tmp_path / "spec.yaml"), Catalog.load(catalog))
    assert not {run.run_id for run in other_data.runs} & before
    changed = plan_of(
        tmp_path, SPEC.replace("data: tiny, seeds: [0, 1]}\ncheck", "data: tiny, set: {grid: 1, combine: 1}}\ncheck")
    )
    assert not {run.run_id for run in changed.runs if run.label == "fast"} & before
    # What changes how a pretraining keeps its books, and no number, is the same run.
    books = plan_of(tmp_path, SPEC.replace("seeds: [0, 1]}\ncheck", "seeds: [0, 1], set: {log_every_steps: 3}}\ncheck"))
    assert {run.run_id for run in books.runs} == before


def test_intermediate_checkpoints_have_evaluations_of_their_own(tmp_path: Path) -> None:
    text = SPEC.replace("seeds: [0, 1]}\ncheck", "set: {epochs: 5, warmup_epochs: 0}}\ncheck")
    plan = plan_of(tmp_path, text.replace("data: tiny, seeds: [0, 1]}\n", "data: tiny, every_epochs: 2}\n"))
    (pretraining,) = [run for run in plan.runs if run.request.kind == "pretrain"]
    assert pretraining.request.settings["keep_epochs"] == [2, 4]
    epochs = [run.request.checkpoint.epoch for run in plan.runs if run.label == "fast" and run.request.checkpoint]
    assert epochs == [2, 4, None]


def test_a_glob_makes_one_checkpoint_of_each_file(tmp_path: Path) -> None:
    for name in ("a.pth", "b.pth"):
        (tmp_path / name).write_bytes(name.encode())
    text = "name: files\ncheckpoints: {theirs: {file: '*.pth'}}\nevaluate: [{task: knn, data: tiny}]\n"
    before = plan_of(tmp_path, text)
    assert [run.label for run in before.runs] == ["theirs/a", "theirs/b"]
    (tmp_path / "b.pth").write_bytes(b"other weights")
    after = plan_of(tmp_path, text)
    assert before.runs[0].run_id == after.runs[0].run_id
    assert before.runs[1].run_id != after.runs[1].run_id


@pytest.mark.parametrize(
    ("old", "new", "line", "told"),
    [
        ("evaluate:", "evaluat:", 6, "unknown key 'evaluat'"),
        ("recipe: shapes_demo", "recipe: shape_demo", 3, "unknown recipe 'shape_demo' (did you mean 'shapes_demo'?)"),
        ("task: knn", "task: kn", 7, "unknown task 'kn'"),
        ("task: knn, data: tiny", "task: knn, data: tyni", 7, "unknown data set 'tyni'"),
        ("seeds: [0, 1]}\ncheck", "set: {epoch: 3}}\ncheck", 3, "unknown field of Recipe 'epoch'"),
        ("backbone: cifar_resnet20, init: random", "file: none.pth", 5, "no checkpoint file at"),
        ("init: random", "init: rando", 5, "init"),
        ("task: knn, data: tiny", "task: knn, data: tiny, checkpoints: [fats]", 7, "unknown checkpoint 'fats'"),
        ("name: small", "name: small\nname: twice", 2, "key 'name' stands twice"),
    ],
)
def test_what_is_wrong_is_told_with_its_line(tmp_path: Path, old: str, new: str, line: int, told: str) -> None:
    assert old in SPEC
    with pytest.raises(InputError) as raised:
        plan_of(tmp_path, SPEC.replace(old, new))
    assert f"spec.yaml:{line}: " in str(raised.value)
    assert told in str(raised.value)
    assert str(raised.value).count("spec.yaml:") == 1


def test_a_run_is_named_by_what_the_spec_calls_it(tmp_path: Path) -> None:
    """`pretrain-grid1_combine1-...` is `moco` in the spec, and two drawings of random weights both read `s0`."""
    path = tmp_path / "spec.yaml"
    path.write_text(
        "name: t\npretrain:\n  fast_moco: {recipe: shapes_demo, data: shapes}\n"
        "  moco: {recipe: shapes_demo, data: shapes, set: {grid: 1, combine: 1}}\n"
        "checkpoints:\n  random: {backbone: cifar_resnet20, init: random, seeds: [0, 1]}\n"
        "evaluate: [{task: knn, data: shapes}]\n"
    )
    plan = make_plan(load_spec(path), Catalog.load(None))
    assert plan.run("moco: shapes_demo").title == "moco: shapes_demo on shapes, seed 0"
    drawn = [run for run in plan.runs if run.label == "random"]
    assert [run.title for run in drawn] == [
        "random: knn/dino on shapes, seed 0", "random: knn/dino on shapes, seed 0, weights drawn with 1"
    ]  # fmt: skip
    assert plan.run("weights drawn with 1") == drawn[1]
    for run in plan.runs:
        assert plan.run(run.request.short()) == run
    with pytest.raises(InputError, match=r"'knn' is part of 4 runs' ids or titles; name one of \w{12} \("):
        plan.run("knn")
    with pytest.raises(InputError, match="no run 'kmn' in this campaign; its runs: .*; and 1 more"):
        plan.run("kmn")


def test_the_explanation_is_read_by_people(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from benchmarks.campaign.opened import open_campaign
    from benchmarks.launch.explain import print_explanation

    path = tmp_path / "spec.yaml"
    path.write_text(
        "name: t\npretrain:\n  moco: {recipe: shapes_demo, data: shapes, set: {grid: 1, combine: 1}}\n"
        "evaluate: [{task: knn, data: shapes, set: {k: 5}}]\n"
    )
    campaign = open_campaign(path, tmp_path / "runs", Catalog.load(None), cluster=None, site=None)
    print_explanation(campaign, "moco: shapes_demo")
    told = capsys.readouterr().out
    assert "settings:   shapes_demo (all of it: fastmoco recipes shapes_demo)\n" in told
    assert "              grid 1 (the preset has 2)\n" in told
    assert "what:       moco: shapes_demo on shapes, seed 0" in told
    print_explanation(campaign, "moco: knn")
    told = capsys.readouterr().out
    assert "              k 5 (the preset has 20)\n" in told
    assert "checkpoint: moco, made by moco: shapes_demo on shapes, seed 0 (pretrain-" in told
    assert max(map(len, told.splitlines())) < 200
    assert "{" not in told


def test_the_examples_of_logs_and_explain_name_one_run_of_the_demo(repository: Path) -> None:
    from benchmarks.cli.campaign import explain, logs

    spec = repository / "benchmarks" / "campaigns" / "demo.yaml"
    plan = make_plan(load_spec(spec), Catalog.load(None))
    for command in (logs, explain):
        words = (command.__doc__ or "").partition("Example: ")[2].split()
        assert plan.run(words[words.index("benchmarks/campaigns/demo.yaml") + 1])
