import io

from rich.console import Console

from puna.report.terminal import print_summary


def printed(run_dir, width=80):
    out = io.StringIO()
    print_summary(run_dir, Console(file=out, width=width))
    return out.getvalue()


def test_it_fits_eighty_columns_and_says_what_to_try_next(quickstart):
    text = printed(quickstart)
    table, rest = text.split("What to try next:")
    assert max(map(len, table.splitlines())) <= 80
    assert "…" not in table
    assert "better" in table
    assert [line.split()[0] for line in rest.strip().splitlines()] == ["puna", "puna", "open"]
    assert f"puna eval {quickstart} --env arithmetic -k 8" in rest


def test_a_wide_terminal_shows_steps_and_tokens(quickstart):
    assert "tokens" in printed(quickstart, 120)
    assert "tokens" not in printed(quickstart, 80)


def test_markup_in_a_title_is_text(writer):
    run = writer(title="[red]T[/nonsense]")
    run.pretrain()
    assert "[red]T[/nonsense]" in printed(run.finish())
