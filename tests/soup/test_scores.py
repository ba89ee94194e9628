"""Scores from CSV files, a leaderboard's as it is: what is a category, what is wrong where."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from puna.core.errors import UserError
from puna.soup.scores import read_scores

# A few rows and columns of the public function-calling leaderboard (Apache-2.0), in its form.
LEADERBOARD = """\
Rank,Overall Acc,Model,Model Link,Cost ($ Per 1k Function Calls),Latency Mean (s),\
Non-Live AST Acc,Live Acc,Multi Turn Base,Multi Turn Composite,Relevance Detection,\
Irrelevance Detection,Organization,License
1,74.24%,watt-tool-70B (FC),https://huggingface.co/watt-ai/,N/A,3.4,\
84.06%,77.65%,67.00%,N/A,94.44%,76.32%,Watt AI Lab,Apache-2.0
2,72.02%,gpt-4o-2024-11-20 (Prompt),https://openai.com/,13.54,0.78,\
88.10%,79.65%,59.00%,N/A,83.33%,83.76%,OpenAI,Proprietary
9,62.63%,Functionary-Medium-v3.1 (FC),https://huggingface.co/,N/A,14.06,\
89.88%,76.59%,31.50%,N/A,72.22%,76.08%,MeetKai,MIT
21,58.39%,ToolACE-8B (FC),https://huggingface.co/Team-ACE/,N/A,5.24,\
87.54%,78.50%,7.50%,N/A,83.33%,87.88%,Huawei Noah & USTC,Apache-2.0
99,12.00%,"Broken, (FC)",https://example.com/,N/A,5.24,\
87.54%,N/A,7.50%,N/A,83.33%,87.88%,Nobody,MIT
"""


def file(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "scores.csv"
    path.write_text(text, encoding="utf-8-sig")
    return path


def test_the_leaderboard_as_it_is(tmp_path):
    found = read_scores(file(tmp_path, LEADERBOARD))
    assert found.categories == (
        "Non-Live AST Acc", "Live Acc", "Multi Turn Base", "Relevance Detection",
        "Irrelevance Detection",
    )  # fmt: skip
    assert found.models == (
        "watt-tool-70B (FC)", "gpt-4o-2024-11-20 (Prompt)", "Functionary-Medium-v3.1 (FC)",
        "ToolACE-8B (FC)",
    )  # fmt: skip
    np.testing.assert_allclose(found.values[0], [0.8406, 0.7765, 0.67, 0.9444, 0.7632])
    assert found.notes == (f"{tmp_path}/scores.csv: 1 of 5 models lack a score and are left out",)
    row = found.of(["ToolACE-8B (FC)"])
    assert row.models == ("ToolACE-8B (FC)",)
    assert row.values[0, 2] == 0.075
    with pytest.raises(UserError, match=r"no model 'ToolACE-8B'; did you mean 'ToolACE-8B \(FC\)'"):
        found.of(["ToolACE-8B"])


def test_plain_numbers_and_the_first_column_for_names(tmp_path):
    found = read_scores(file(tmp_path, "who,maths,average,code\na,0.5,1,2e-1\n\nb,.25,1,-3\n"))
    assert found.models == ("a", "b")
    assert found.categories == ("maths", "code")
    assert found.values.tolist() == [[0.5, 0.2], [0.25, -3.0]]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "has no scores"),
        ("model,maths\n", "has no scores"),
        ("model,maths\na,1,2\n", "row 2: 3 cells for 2 columns"),
        ("model,maths\na,1\nb\n", "row 3: 1 cells for 2 columns"),
        ("model,maths\na,1\na,2\n", "model 'a' is there twice"),
        ("model,maths,maths\na,1,2\n", "column 'maths' is there twice"),
        ("model,maths\na,1\nb,2\nc,0;5\n", "row 4: maths is '0;5', no number"),
        ("model,maths\na,1\nb,2\nc,inf\n", "row 4: maths is 'inf', no number"),
        ("model,licence\na,MIT\nb,GPL\n", "no column of scores"),
        ("model,rank,overall\na,1,2\nb,2,3\n", "no column of scores"),
        ("model,maths,code\na,1,N/A\nb,,2\n", "no model has a score in every column"),
        ("model,maths\na,\0\n", "scores.csv"),
    ],
)
def test_mistakes_are_named_with_their_place(tmp_path, text, said):
    with pytest.raises(UserError, match=said):
        read_scores(file(tmp_path, text))


def test_files_that_are_no_text_or_not_there(tmp_path):
    with pytest.raises(UserError, match="cannot be read as CSV"):
        read_scores(tmp_path / "none.csv")
    (tmp_path / "raw.csv").write_bytes(b"model,a\n\xff\xfe,1\n")
    with pytest.raises(UserError, match="cannot be read as CSV"):
        read_scores(tmp_path / "raw.csv")
    with pytest.raises(UserError, match="cannot be read as CSV"):
        read_scores(tmp_path)
