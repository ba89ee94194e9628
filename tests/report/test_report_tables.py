import pytest

from puna.report.lineage import _places
from puna.report.read import open_run
from puna.report.tables import score_tables, unscored


def test_unscored_episodes_are_counted(writer):
    run = writer()
    run.sft("sft", "x")
    run.rl(infra=2)
    run.eval("eval", {"sft": 0.5, "rl": 0.7}, n=50, infra=10)
    page = unscored(open_run(run.finish()))
    assert '<th scope="row">rl on arithmetic 1.0, by eval</th><td>40</td><td>0</td>' in page
    assert "rl, while training</th><td>15,120</td><td>0</td><td>240</td>" in page


def test_tags_and_pass_at_k(writer):
    run = writer()
    run.sft("sft", "x")
    run.eval("eval", {"sft": 0.5}, n=50, k=4)
    whole = open_run(run.finish())
    page = score_tables(whole)
    for heading in ("all", "terms=2", "terms=3", "pass@4", "pass^4"):
        assert f'<th scope="row">{heading}' in page
    assert "50 tasks" in page
    assert "25 tasks" in page


@pytest.mark.parametrize("seeds_", [1, 3])
def test_every_stage_has_a_place_of_its_own_and_parents_stand_left(writer, seeds_):
    run = writer()
    run.pretrain()
    for seed in range(seeds_):
        run.sft(f"sft@seed={seed}")
        run.rl(f"rl@seed={seed}", f"sft@seed={seed}")
        run.sft(f"more@seed={seed}", f"sft@seed={seed}")
        run.eval(f"eval@seed={seed}", {f"more@seed={seed}": 0.5, f"rl@seed={seed}": 0.6}, n=20)
    whole = open_run(run.finish())
    places = _places(whole)
    assert len(set(places.values())) == len(places) == len(whole.stages)
    for stage in whole.stages:
        assert all(places[p][0] < places[stage.id][0] for p in stage.parents)
    assert places["rl@seed=0"][1] == places["eval@seed=0"][1] == 0
