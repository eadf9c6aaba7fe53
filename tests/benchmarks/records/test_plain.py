"""Whatever a text holds, it stays text; and messages lose the folders of the machine."""

import csv
import io

import pytest
from rich.console import Console

from benchmarks.records.plain import (
    counted,
    in_cell,
    in_csv,
    in_html,
    in_markdown,
    in_markup,
    in_tex,
    visible,
    without_folders,
)

EVIL = "\x1b[31mred\x9b\u202etxt\n| a `b` [c](http://d.e) <!-- zoo report: end --> :warning: [bold]"


def test_one_of_a_thing_is_told_as_one():
    assert [counted(n, "longer control") for n in (0, 1, 2)] == [
        "0 longer controls",
        "1 longer control",
        "2 longer controls",
    ]


@pytest.mark.parametrize(
    ("message", "kept"),
    [
        ("No such file: '/home/jane doe/data/x.pt'", "No such file: 'x.pt'"),
        ("see /home/jane/a/b.py, line 3", "see b.py, line 3"),
        ("/srv/data/x:/opt/y", "x:y"),
        ("path:/usr/lib/x.so", "path:x.so"),
        ("dir=/tmp/a.b/c", "dir=c"),
        ("(/root/.cache/t.bin)", "(t.bin)"),
        ("file:///home/jane/x.py", "x.py"),
        ("in ~/secret/x.txt", "in x.txt"),
        ("/home/jane", "~"),
        ("'/Users/jane/'", "'~'"),
        (r"C:\Users\Jane\x.pt is gone", "x.pt is gone"),
        (r"'C:\\Users\\Jane Doe\\x.pt'", "'x.pt'"),
        ("C:/Users/Jane/y.txt", "y.txt"),
        (r"\\server\share\x.pt", "x.pt"),
    ],
)
def test_an_absolute_path_is_cut_down_to_its_last_part(message, kept):
    assert without_folders(message) == kept


@pytest.mark.parametrize(
    "message",
    ["a/b, 1/2 and 5 images/s", "https://x.org/a/b", "results/records/x.json", "a / b", "// note"],
)
def test_what_is_no_absolute_path_stays(message):
    assert without_folders(message) == message


def test_the_home_folder_of_whoever_runs_it_is_never_kept(monkeypatch, tmp_path):
    home = tmp_path / "Jane Doe"
    monkeypatch.setenv("HOME", str(home))
    assert without_folders(f"cannot open {home}/data/x.pt") == "cannot open x.pt"


def test_control_and_direction_characters_are_seen_as_their_escapes():
    assert visible("a\x1b[1m\x9b\u202e\n\t\u200b\x00") == r"a\x1b[1m\x9b\u202e\n\t\u200b\x00"
    assert visible("ResNet-20 ± ü") == "ResNet-20 ± ü"
    assert visible("a" * 100 + "z" * 100, 20) == "aaaaaaaaaaaa...zzzzz"


def printed(*what):
    console = Console(
        file=io.StringIO(), force_terminal=True, color_system="truecolor", width=400, emoji=False
    )
    console.print(*what, highlight=False)
    return console.file.getvalue()


@pytest.mark.parametrize("form", [in_cell, in_markup])
def test_a_terminal_is_neither_coloured_nor_moved(form):
    out = printed(form(EVIL))
    assert "\x1b" not in out and out.count("\n") == 1
    assert out.rstrip("\n") == visible(EVIL)


@pytest.mark.parametrize("text", ["x\\", "[/]", "\\[bold]", "[red]", "\\\\[x]"])
def test_markup_stays_text_behind_any_backslashes(text):
    assert printed(f"{in_markup(text)}[bold]end[/]").replace("\x1b[1m", "").startswith(text)


def test_markdown_has_no_sign_left_that_means_something():
    text = in_markdown(EVIL + " *x* _y_ a_b $z$ ~~s~~ www.x.org")
    assert "\n" not in text and "<" not in text and ">" not in text
    assert r"\| a \`b\` [c\](http:&#47;&#47;d.e)" in text
    assert r"\*x\* \_y\_ a_b \$z\$ \~\~s\~\~ www&#46;x.org" in text


@pytest.mark.parametrize(
    "text", ["=1+1", "+1", "-1", "@SUM(A1)", " =1", "\N{FULLWIDTH EQUALS SIGN}1"]
)
def test_no_field_is_a_formula(text):
    assert in_csv(text) == f"'{text}"


def test_numbers_stay_numbers_and_a_text_is_one_line_of_csv():
    assert (in_csv(-1.5), in_csv(None), in_csv(True)) == (-1.5, None, True)
    out = io.StringIO()
    csv.writer(out, lineterminator="\n").writerow([in_csv('a\n"b",\rc')])
    assert out.getvalue().count("\n") == 1


def test_latex_and_html_hold_no_command():
    assert (
        in_tex("\\input{x} 中\n") == r"\textbackslash{}input\{x\} \texttt{U+4E2D}\textbackslash{}n"
    )
    assert in_html("<!-- a & b -->\n") == r"&lt;!-- a &amp; b --&gt;\n"
