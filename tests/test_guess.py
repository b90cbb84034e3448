"""Guess, then see: what is asked, what is shown and when, and what is refused."""

import re

import numpy as np
import pytest
import torch
from axe_playwright_python.sync_playwright import Axe
from bs4 import BeautifulSoup

from coatnet_mini.explore import guess
from coatnet_mini.explore.guess import STYLE
from tests.sanitised import sanitised

OPTIONS = ["blur", "attention", "both"]


def ask(**changes):
    given = {
        "question": "Which mends it best?",
        "options": OPTIONS,
        "answer": "both",
        "because": "26.7 dB & 3 < 4",
        "wrong": {"blur": "It smears edges."},
    }
    given |= changes
    return guess(given.pop("question"), given.pop("options"), **given)


def folds(text: str) -> dict[str, str]:
    """What each summary unfolds."""
    details = BeautifulSoup(text, "html.parser").find_all("details")
    return {d.summary.text: "".join(node.text for node in d.find_all("p")) for d in details}


@pytest.mark.parametrize("clean", [str, sanitised], ids=["as made", "sanitised"])
def test_each_option_unfolds_its_verdict_and_the_reason(clean):
    assert folds(clean(ask()._repr_html_())) == {
        "blur": "✗ Not this one. It smears edges. The answer: both. 26.7 dB & 3 < 4",
        "attention": "✗ Not this one. The answer: both. 26.7 dB & 3 < 4",
        "both": "✓ Right. 26.7 dB & 3 < 4",
        "Show me": "The answer: both. 26.7 dB & 3 < 4",
    }


def test_what_a_notebook_stores():
    """All of it: what each option unfolds, and that text is escaped."""
    given = {"because": 'x<sub>i</sub> & "y" < 3', "wrong": {"a<b": "No <i>a</i>."}}
    text = guess('Which <b>one</b>, "a"?', ["a<b", 2], answer=1, **given)._repr_html_()
    style = text[text.index("<style>") : text.index("</style>")]
    name = re.search(r'name="(guess-[0-9a-f]{8})"', text)[1]
    why = 'x<sub>i</sub> &amp; "y" &lt; 3'
    found = f"The answer: <b>2</b>. {why}"
    assert style[len("<style>") :] == STYLE and ".cm-guess details[open]" in STYLE
    assert text.replace(style, "<style>").replace(name, "NAME") == (
        '<div class="cm-guess" role="group" aria-label="Guess, then see"><style></style>\n'
        '<p><b>Guess.</b> Which <b>one</b>, "a"?</p>\n'
        '<details name="NAME"><summary>a&lt;b</summary>'
        f"<p><b>✗ Not this one.</b> No <i>a</i>. {found}</p></details>\n"
        f'<details name="NAME"><summary>2</summary><p><b>✓ Right.</b> {why}</p></details>\n'
        '<details name="NAME" class="cm-guess-show"><summary>Show me</summary>'
        f"<p>{found}</p></details>\n"
        "</div>"
    )


@pytest.mark.parametrize("tag", ["b", "i", "em", "strong", "code", "sub", "sup"])
def test_each_of_seven_tags_stays_and_has_to_be_closed(tag):
    text = f"a <{tag}>few</{tag}> words"
    assert f" {text}</p>" in ask(because=text)._repr_html_()
    assert repr(ask(because=text)).endswith(". a few words")
    with pytest.raises(ValueError, match=f"<{tag}> is not closed"):
        ask(because=f"a <{tag}>few words")


@pytest.mark.parametrize("count", [2, 3, 4])
def test_any_option_may_be_right(count):
    for place in range(count):
        asked = guess("Which?", list("abcd")[:count], answer=place, because="So.")
        assert asked.answer == "abcd"[place] and not asked.wrong


def test_nothing_tells_the_answer_before_the_choice():
    soup = BeautifulSoup(ask()._repr_html_(), "html.parser")
    looks = set()
    for fold in soup.find_all("details"):
        assert not fold.has_attr("open")
        fold.p.decompose()
        if fold.summary.text != "Show me":
            fold.summary.string = "option"
            looks.add(str(fold))
    assert len(looks) == 1, "options differ in more than their text"
    assert soup.find("script") is None and "on" not in {a[:2] for t in soup() for a in t.attrs}


def test_words_hold_question_options_and_answer():
    words = repr(ask(because="a<sub>i</sub> grows by <b>2</b>"))
    assert words == (
        "Guess: Which mends it best?\n  blur · attention · both\nAnswer: both. ai grows by 2"
    )


def test_few_tags_stay_and_everything_else_is_text():
    text = ask(because='x<sub>i</sub> <script>alert(1)</script> <b onclick="x">')._repr_html_()
    soup = BeautifulSoup(text, "html.parser")
    assert soup.find("script") is None and soup.find("sub").text == "i"
    assert 'xi <script>alert(1)</script> <b onclick="x">' in soup.text
    assert (
        '"quoted" <i>'
        in BeautifulSoup(
            ask(options=["a", '"quoted" <i>'], answer="a", wrong={})._repr_html_(), "html.parser"
        ).text
    )


def test_two_guesses_on_a_page_do_not_close_each_other():
    names = [
        BeautifulSoup(g._repr_html_(), "html.parser").details["name"]
        for g in (ask(), ask(), ask(question="And now?"))
    ]
    assert names[0] == names[1] != names[2]


@pytest.mark.parametrize("answer", [2, np.int64(2), torch.tensor(2), "both", np.str_("both")])
def test_answer_is_an_option_or_its_place(answer):
    assert ask(answer=answer).answer == "both"


def test_numbers_are_options_before_they_are_places():
    numbers = {"options": [3, 1, 2], "wrong": {1: "One short."}}
    for answer in (2, np.float64(2.0).astype(int), torch.tensor(2)):
        assert ask(answer=answer, **numbers).answer == "2"
    assert "One short." in folds(ask(answer=2, **numbers)._repr_html_())["1"]


@pytest.mark.parametrize(
    "changes, said",
    [
        ({"options": ["blur"]}, "two to four options"),
        ({"options": list("abcde")}, "two to four options"),
        ({"options": "blur"}, "two to four options"),
        ({"options": ["both", "both"]}, "two options are the same: both, both"),
        ({"answer": "neither"}, "answer is 'neither'; choose one of blur, attention, both"),
        ({"answer": 3}, "answer is 3; choose"),
        ({"answer": -1}, "answer is -1; choose"),
        ({"answer": True}, "answer is True; choose"),
        ({"answer": 1.0}, r"answer is 1\.0; choose"),
        ({"wrong": {"both": "no"}}, "explains 'both'; the other options are blur, attention"),
        ({"wrong": {"mean": "no"}}, "explains 'mean'"),
        ({"because": " "}, "need some words"),
        ({"question": ""}, "need some words"),
        ({"because": "$x_i$"}, "TeX is not set here"),
        ({"wrong": {"blur": "a <b>b"}}, "<b> is not closed"),
        ({"because": "a</sub>"}, "</sub> closes no <sub>"),
        ({"because": "<b><i>a</b></i>"}, "</b> closes no <b>"),
    ],
)
def test_bad_input_is_one_clear_line(changes, said):
    with pytest.raises(ValueError, match=said) as error:
        ask(**changes)
    assert "\n" not in str(error.value)


# ---- In Chromium ---------------------------------------------------------------------------------


@pytest.fixture(params=["white", "black"])
def page(request, browser):
    """A page without script, on a light and on a dark ground, that shows one guess."""
    context = browser.new_context(viewport={"width": 375, "height": 700})
    page = context.new_page()
    ink = {"white": "black", "black": "white"}[request.param]
    page.set_content(
        f'<html lang="en"><title>Guess</title><body style="background: {request.param}; '
        f'color: {ink}"><main><h1>Guess</h1>{ask()._repr_html_()}</main></body></html>'
    )
    yield page
    context.close()


def visible(page) -> list[str]:
    texts = (p for p in page.query_selector_all("details p") if p.is_visible())
    return [p.inner_text() for p in texts]


def test_keys_open_one_answer_at_a_time(page):
    assert visible(page) == []
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    assert visible(page) == ["✗ Not this one. It smears edges. The answer: both. 26.7 dB & 3 < 4"]
    page.keyboard.press("Tab")
    page.keyboard.press("Tab")
    page.keyboard.press("Space")
    assert visible(page) == ["✓ Right. 26.7 dB & 3 < 4"]
    page.get_by_text("Show me").click()
    assert visible(page) == ["The answer: both. 26.7 dB & 3 < 4"]


def test_axe_and_a_phone_have_nothing_against_it(page):
    page.get_by_text("attention").click()
    assert Axe().run(page).response["violations"] == []
    assert page.evaluate("document.documentElement.scrollWidth") <= 375
    for summary in page.query_selector_all("summary"):
        assert summary.bounding_box()["height"] >= 24
