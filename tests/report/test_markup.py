from html.parser import HTMLParser

from hypothesis import given
from hypothesis import strategies as st

from puna.report.markup import Html, clip, count, esc, number, tag


class Seen(HTMLParser):
    def __init__(self, page):
        super().__init__(convert_charrefs=True)
        self.tags, self.text, self.attributes = [], "", []
        self.feed(page)
        self.close()

    def handle_starttag(self, name, attributes):
        self.tags.append(name)
        self.attributes += attributes

    def handle_data(self, data):
        self.text += data


@given(st.text(alphabet=st.characters(codec=None), max_size=60))
def test_no_text_becomes_markup(text):
    page = tag("p", text, title=text)
    page.encode("utf-8")
    seen = Seen(page)
    assert seen.tags == ["p"]
    assert [name for name, _ in seen.attributes] == ["title"]
    assert len(seen.text) == len(text)


def test_only_html_passes_unescaped():
    assert tag("p", Html("<b>x</b>")) == "<p><b>x</b></p>"
    assert tag("p", "<b>") == "<p>&lt;b&gt;</p>"
    assert tag("a", class_="x", aria_label="y", id=None) == '<a class="x" aria-label="y"></a>'


def test_controls_and_direction_overrides_are_shown_not_obeyed():
    assert esc("\x00\x1b\n\u202e\ud800") == "\u2400\u241b\n\ufffd?"


def test_numbers_are_finite_or_nothing():
    assert [number(x) for x in (1, 2.5, True, float("nan"), float("inf"), "3", None)] == [
        1.0,
        2.5,
        None,
        None,
        None,
        None,
        None,
    ]


def test_counts_for_people():
    given = (None, 0, 3.14, 61.5, 12345, 2_457_600, 3e9, 12e9)
    shown = ["–", "0", "3.1", "62", "12,345", "2.46 M", "3 G", "12 G"]
    assert [count(x) for x in given] == shown


def test_clip_says_what_it_left_out():
    assert clip("abc", 3) == "abc"
    assert clip("a" * 5000, 10) == "a" * 10 + "\n[4,990 more characters]"
