"""The page: what stands in it, and what a reader can do with it in a real browser."""

import html
import json
import re
import shutil
from pathlib import Path

import pytest
from rich.console import Console

import benchmarks.page
from benchmarks.analysis.findings import Findings
from benchmarks.figures.all_figures import draw_light_and_dark
from benchmarks.page.page import build_page, write_page
from benchmarks.page.report import write_report
from benchmarks.records.cell import Model
from benchmarks.records.files import write_record
from benchmarks.records.join import joined
from benchmarks.records.record import TimedOn
from benchmarks.tables.contrast_lines import NONE
from tests.benchmarks.fabricate import ENVIRONMENT, cell, record
from tests.benchmarks.figures.test_accuracy import timed
from tests.benchmarks.figures.test_all_figures import ranked
from tests.benchmarks.machines import BETA, GPU, timing, trained

LIBRARY = Path(benchmarks.page.__file__).with_name("uplot") / "uPlot.iife.min.js"
LICENCE = LIBRARY.with_name("LICENSE")

EVIL = '</script><img src=x onerror="window.hacked=1"><script>window.hacked=1</script>"\'{{7*7}}'

RECORDS = [
    *(
        record(cell=cell(method, budget, model=Model(name=model)), top1=top1)
        for method, top1 in (("uniform", 0.7), ("taylor", 0.9), ("fpgm", 0.8))
        for budget in (0.5, 0.25)
        for model in ("net_a", "net_b")
    ),
    record(
        cell=cell("evil", settings={"note": EVIL}, model=Model(name=f"net {EVIL}")),
        status="failed",
        reason=EVIL,
    ),
]


@pytest.fixture(scope="module")
def drawn(tmp_path_factory):
    return draw_light_and_dark(Findings.of(RECORDS), tmp_path_factory.mktemp("figures"))


@pytest.fixture(scope="module")
def figures(drawn):
    return drawn[0]


@pytest.fixture(scope="module")
def dark(drawn):
    return drawn[1]


@pytest.fixture(scope="module")
def page(figures, dark):
    return build_page(Findings.of(RECORDS), title=EVIL, figures=figures, dark=dark)


def test_a_report_leaves_no_table_of_earlier_records(tmp_path):
    for each in RECORDS[:6]:
        write_record(tmp_path / "records", each)
    stale = tmp_path / "tables" / "ranking.md"
    stale.parent.mkdir()
    stale.write_text("what earlier records said")
    write_report(Console(quiet=True), tmp_path)
    assert not stale.exists() and (stale.parent / "results.md").exists()


def test_every_row_links_to_its_record_with_settings_seed_environment_and_commit(page):
    anchors = re.findall(r'<td class="text"><a href="#(r-[^"]+)">s0</a>', page)
    assert len(anchors) == len(RECORDS) == len(set(anchors))
    for anchor in anchors:
        details = page.split(f'<details id="{anchor}">')[1].split("</details>")[0]
        for fact in ("Settings", "Seed", "Environment", "Commit", "0" * 40, "torch 2.11.0"):
            assert fact in details


def test_a_record_tells_where_it_was_timed_beside_where_it_was_trained(figures, dark):
    gpu = ENVIRONMENT.model_copy(update={"gpu": "GPU 9"})
    on = TimedOn(device="cuda", environment=gpu, fingerprint="cuda-1")
    elsewhere = [each.model_copy(update={"timed_on": on}) for each in RECORDS]
    text = build_page(Findings.of(elsewhere), title="", figures=figures, dark=dark)
    count = sum(bool(each.latency) for each in RECORDS)
    assert count and text.count("on cuda, commit 0000") == text.count("gpu GPU 9") == count


def test_a_record_that_two_devices_timed_stands_there_once_with_the_times_of_both():
    one, other = trained(), trained("fpgm", kept=5)
    times = [timing(one, 0.5, on=GPU, device="cuda"), timing(one, 0.9, on=BETA)]
    text = build_page(Findings.of(joined([one, other], times)), title="")
    anchors = re.findall(r'<details id="([^"]+)"', text)
    assert len(anchors) == len({*anchors}) == 2
    told = {}
    for anchor in anchors:
        details = html.unescape(text.split(f'<details id="{anchor}">')[1].split("</details>")[0])
        told[re.search(r"<dt>Method</dt><dd>(\w+)", details)[1]] = details
    dump = told["uniform"].split("<pre>")[1].split("</pre>")[0]
    first, *timed = dump.replace("\n}\n{", "\n}\0{").split("\0")
    assert json.loads(first)["fingerprint"] == one.fingerprint  # its environment stands above it
    assert "latency" not in json.loads(first)
    medians = [json.loads(each)["latency"][0]["pruned_ms"]["median"] for each in timed]
    assert sorted(medians) == [5.0, 9.0]
    assert {json.loads(each)["timed_on"]["fingerprint"] for each in timed} == {
        each.fingerprint for each in times
    }
    for place, device in (("1 of 2", "cpu"), ("2 of 2", "cuda")):
        assert f"<dt>Timed, {place}</dt><dd>on {device}, commit 0000" in told["uniform"]
    assert "<dt>Timed" not in told["fpgm"] and told["fpgm"].count("{") > 1


def test_networks_that_two_machines_trained_and_one_timed_can_be_told_apart():
    records = [trained(on=BETA), trained("fpgm", kept=5)]
    found = joined(records, [timing(each, on=GPU, device="cuda") for each in records])
    text = build_page(Findings.of(found), title="")
    for name in ("Abacus 3000", "Beta 7"):
        assert re.search(rf"<option[^>]*>GPU 9 [^<]*, trained on {name}<", text)


def test_what_a_record_says_stays_text(page):
    assert EVIL not in page
    assert html.escape(EVIL, quote=False).replace('"', "&#34;").replace("'", "&#39;") in page
    assert page.count("<script>") == 1 and "onerror=&#34;" in page and "49" not in page.split(
        "<title>")[1].split("</title>")[0]  # fmt: skip


def test_what_was_named_before_and_what_holds_over_networks_is_told():
    records = [
        record(cell=cell(method, 0.5, seed, model=Model(name=model)), top1=top1 + 0.01 * seed)
        for method, top1 in (("uniform", 0.7), ("taylor", 0.9))
        for model in ("net_a", "net_b")
        for seed in (0, 1)
    ]
    lost = record(cell=cell("fpgm", 0.25, model=Model(name="net_a")), status="failed", reason="x")
    page = build_page(Findings.of([*records, lost]), title="t")
    assert page.index(NONE) < page.index("<table")
    assert "<li>taylor ranks 1.00 on average, +20.0 [+20.0, +20.0] points to uniform.</li>" in page
    assert "2 networks; a critical difference needs 5." in page
    # Unknown to the sorting script.
    assert '<td class="" data-value="">1 of 1 failed</td>' in page


def test_a_budget_is_a_count_with_all_its_digits_and_sorts_as_a_number():
    budgets = (0.3876, 41_234_567, 0.5)
    page = build_page(
        Findings.of(record(cell=cell("taylor", budget), size=None) for budget in budgets),
        title="t",
    )
    for value, text in (("41234567.0", "41,234,567"), ("0.3876", "0.3876"), ("0.5", "0.5")):
        assert f'data-value="{value}">{text}</td>' in page
    assert "e+07<" not in page


def test_nothing_is_fetched(page):
    sources = re.findall(r'(?:src|href)="([^"]*)"', page)
    assert len(sources) > 20 and all(s.startswith(("data:", "#", "records/")) for s in sources)
    assert "default-src 'none'" in page
    library = LIBRARY.read_text("utf-8")
    assert page.count(library) == 1 and LICENCE.read_text("utf-8") in page
    ours = page.replace(library, "")
    assert not re.findall(r"url\(|@import|fetch\(|XMLHttp|https?://", ours)
    names_itself = library.splitlines()[0]
    rest = library.replace(names_itself, "")
    assert names_itself.startswith("/*! https://github.com/leeoniya/uPlot (v1.")
    assert not re.findall(r"fetch\(|XMLHttp|https?://|eval\(|Function\(", rest)


def test_the_page_is_the_same_in_every_run(page, figures, dark):
    again = build_page(Findings.of(reversed(RECORDS)), title=EVIL, figures=figures, dark=dark)
    assert page == again


def test_records_of_a_ranking_alone_make_a_page_without_rows():
    page = build_page(Findings.of(ranked()), title="ranking")
    assert page.count("<details id=") == len(ranked()) and "<tbody>\n</tbody>" in page


def points_of(page):
    text = page.split('<script type="application/json" id="points">')[1].split("</script>")[0]
    return json.loads(text)


def test_the_scatter_has_a_point_for_each_run_with_its_numbers_and_record():
    seeds = [record("taylor", 0.5, seed, top1=0.7 + seed / 100) for seed in (0, 1)]
    lost = [record("fpgm", 0.5, 0), record("fpgm", 0.5, 1, status="failed", reason="x")]
    parent = record(cell=cell("parent", 1.0))
    page = build_page(Findings.of([*seeds, *lost, parent]), title="t")
    (panel,) = points_of(page)["panels"]
    assert panel["axes"][0] == "MACs, millions" and len(panel["axes"]) == 4
    whole, first, second = sorted(panel["points"], key=lambda point: point["label"])
    # 0.5 million MACs, ratios of 10 ms at batches 1 and 8, and what deciding and fine-tuning cost.
    assert first["x"] == pytest.approx([0.5, 8, 5, 1.8]) and first["y"] == pytest.approx(70)
    assert (first["label"], second["label"]) == ("taylor 0.5, seed 0", "taylor 0.5, seed 1")
    assert f'<details id="{first["anchor"]}">' in page
    params = record(cell=cell("taylor", 0.5, metric="params"))
    two = build_page(Findings.of([*seeds, params]), title="t")
    labels = {point["label"] for point in points_of(two)["panels"][0]["points"]}
    assert {"taylor 0.5 of macs, seed 0", "taylor 0.5 of params, seed 0"} <= labels
    assert whole["method"] == "parent" and whole["x"][0] is None  # it is the dotted line
    assert panel["parent"] == pytest.approx(90)


def test_speeds_that_are_noise_say_so_in_the_table_and_in_the_scatter():
    odd = record("taylor", latency=[timed(0.5, 0.85)])
    page = build_page(Findings.of([odd, record("fpgm")]), title="t")
    assert page.count("2.00 (noise)</td>") == 2  # at the smallest batch and at the largest
    assert page.count('class="noise"') == 4  # and what was realised of the gain
    found = {point["method"]: point["noise"] for point in points_of(page)["panels"][0]["points"]}
    assert found == {"taylor": [False, True, False, False], "fpgm": [False] * 4}


def test_a_network_that_was_made_wider_says_so_wherever_it_is_named():
    wide = record("fpgm", cell=cell("fpgm", model=Model(name="tiny_net", width=2)))
    text = build_page(Findings.of([wide]), title="t")
    told = re.sub("<pre.*?</pre>", "", text, flags=re.DOTALL)  # without the record as JSON
    assert "tiny_net x 2" in told and not re.search("tiny_net(?! x 2|x2)", told)


def test_a_dark_ground_has_figures_of_its_own(page, dark):
    sources = re.findall(r'<source media="\(prefers-color-scheme: dark\)" srcset="([^"]*)">', page)
    assert len(sources) == len(dark) > 4
    assert all(source.startswith("data:image/png;base64,") for source in sources)


def test_the_table_begins_with_the_network_and_has_speeds_before_what_explains_them(page):
    head = page.split("<thead>")[1].split("</thead>")[0]
    headings = re.findall(r'<button type="button">([^<]*)<', head)
    assert headings[:2] == ["Network", "Method"]
    assert max(headings.index(name) for name in headings if "Speed-up" in name) <= 6


def cells_of(page):
    """Texts of the table by heading, in the order of its rows."""
    headings = re.findall(r'<button type="button">([^<]*)</button></th>', page)
    rows = re.findall(r"<tr[^>]*>\s*(<td.*?)</tr>", page, flags=re.DOTALL)
    cells = [re.findall(r"<td[^>]*>(.*?)</td>", row) for row in rows]
    assert {len(each) for each in cells} == {len(headings)}
    return {name: [each[i] for each in cells] for i, name in enumerate(headings)}


def finished(method, seed=0, own=None):
    made = record(cell=cell(method, seed=seed, protocol=2), top1=0.8, latency=())
    return made.model_copy(update={"top1": made.top1.model_copy(update={"own": own})})


def test_the_own_finish_stands_beside_the_common_one_where_a_method_has_one():
    taught = [finished("bnp", seed, own=0.85 + seed / 50) for seed in (0, 1)]
    page = build_page(Findings.of([*taught, finished("uniform")]), title="t")
    told = cells_of(page)
    names = [*told]
    assert names.index("Own finish") == names.index("To uniform") + 1
    found = dict(zip(told["Method"], told["Own finish"], strict=True))
    assert found == {"bnp": "86.0 ± 1.4", "uniform": "–", "parent twice (A/A)": "–"}
    assert 'data-value="0.86"' in page  # it sorts as a number
    assert (
        "Own is the finish with the weights" in page
        and "seconds" not in page.split('id="records"')[0]
    )


def test_a_row_that_lost_a_seed_has_no_own_finish():
    lost = record(cell=cell("bnp", seed=1, protocol=2), status="failed", reason="x")
    records = [finished("bnp", own=0.85), lost, finished("knapsack", own=0.9)]
    told = cells_of(build_page(Findings.of(records), title="t"))
    found = dict(zip(told["Method"], told["Own finish"], strict=True))
    assert (found["bnp"], found["knapsack"]) == ("1 of 2 failed", "90.0")


def test_a_page_without_own_finishes_has_no_column_of_them(page):
    assert "Own finish" not in cells_of(page)
    alone = build_page(Findings.of([finished("uniform")]), title="t")
    assert "Own finish" not in cells_of(alone)


# In a browser. Debian's chromium through playwright, which downloads nothing; no skip, so a run
# that asks for these tests (tox -e browser) fails where the browser is missing.


@pytest.fixture(scope="module")
def browser():
    from playwright.sync_api import sync_playwright

    path = shutil.which("chromium") or shutil.which("chromium-browser")
    assert path, "no chromium; Debian: apt-get install chromium"
    with sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        yield started
        started.close()


@pytest.fixture(scope="module")
def address(tmp_path_factory, figures, dark):
    path = tmp_path_factory.mktemp("page") / "page.html"
    return write_page(
        Findings.of(RECORDS),
        path,
        title=EVIL,
        figures=figures,
        dark=dark,
    ).as_uri()


@pytest.fixture
def visit(browser, address):
    """Opens the page and, at the end, asserts that nothing was fetched and nothing complained."""
    contexts, complaints, requests = [], [], []

    def open_page(**settings):
        context = browser.new_context(**settings)
        contexts.append(context)
        tab = context.new_page()
        tab.on("console", lambda m: complaints.append(m.text) if m.type == "error" else None)
        tab.on("pageerror", lambda error: complaints.append(str(error)))
        tab.on("request", lambda request: requests.append(request.url))
        tab.goto(address)
        return tab

    yield open_page
    for context in contexts:
        context.close()
    assert complaints == []
    assert {url for url in requests if not url.startswith("data:")} == {address}


def column(tab, heading):
    """Texts of a column's cells in the rows that are seen."""
    index = [th.inner_text().strip(" ▲▼\n") for th in tab.query_selector_all("th")].index(heading)
    rows = tab.query_selector_all("#results tbody tr:not([hidden])")
    return [row.query_selector_all("td")[index].inner_text() for row in rows]


@pytest.mark.browser
def test_the_table_sorts_by_numbers_both_ways_with_the_unknown_last(visit):
    tab = visit()
    for wanted in (False, True):
        tab.click("th button:text-is('Top-1 %')")
        texts = column(tab, "Top-1 %")
        known = [float(text.split()[0]) for text in texts if "." in text]
        assert known == sorted(known, reverse=wanted) and len(set(known)) >= 3
        assert texts[len(known) :] == ["1 of 1 failed"]  # of a network without an A/A row
    tab.click("th button:text-is('Method')")
    methods = column(tab, "Method")
    assert methods == sorted(methods) and methods[0].startswith("evil")


@pytest.mark.browser
def test_the_table_filters_by_box_and_by_text_and_clears(visit):
    tab = visit()
    everything = len(column(tab, "Method"))
    tab.select_option("[data-filter=network]", "net_a")
    assert set(column(tab, "Network")) == {"net_a"}
    tab.fill("[data-filter=any]", "TAYLOR")
    assert column(tab, "Method") == ["taylor", "taylor"]
    assert tab.inner_text("#count") == f"2 of {everything} rows"
    tab.click("#clear")
    assert len(column(tab, "Method")) == everything


@pytest.mark.browser
def test_a_malicious_text_runs_nothing_and_is_seen_as_it_is(visit):
    tab = visit()
    assert tab.evaluate("window.hacked") is None
    assert tab.inner_text("h1") == EVIL and tab.title() == EVIL
    tab.fill("[data-filter=any]", "onerror")
    tab.select_option("[data-filter=network]", f"net {EVIL}")
    (method,) = column(tab, "Method")
    assert method.startswith("evil") and tab.evaluate("window.hacked") is None
    assert tab.evaluate("document.querySelectorAll('img[src=x]').length") == 0


@pytest.mark.browser
def test_a_link_opens_its_record(visit):
    tab = visit()
    link = tab.query_selector("#results tbody a")
    target = link.get_attribute("href")
    assert not tab.evaluate(f"document.querySelector('{target}').open")
    link.click()
    tab.wait_for_function(f"document.querySelector('{target}').open")
    assert "Environment" in tab.inner_text(target)


@pytest.mark.browser
def test_figures_are_seen(visit):
    tab = visit()
    tab.evaluate("document.querySelectorAll('img').forEach(i => { i.loading = 'eager' })")
    tab.wait_for_function("[...document.images].every(i => i.complete && i.naturalWidth > 200)")
    assert tab.evaluate("document.images.length") == 6


@pytest.mark.browser
def test_a_phone_shows_it_without_sideways_scrolling_of_the_page(visit):
    tab = visit(viewport={"width": 390, "height": 844}, is_mobile=True, has_touch=True)
    assert tab.evaluate("document.documentElement.scrollWidth") <= 390
    tab.click("th button:text-is('Top-1 %')")
    tab.evaluate("document.querySelectorAll('details').forEach(d => { d.open = true })")
    assert tab.evaluate("document.documentElement.scrollWidth") <= 390
    size = tab.evaluate("parseFloat(getComputedStyle(document.querySelector('td')).fontSize)")
    assert size >= 11


@pytest.mark.browser
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_and_ground_contrast_in_both_schemes(visit, scheme):
    tab = visit(color_scheme=scheme)
    luminance = """(name) => {
      const rgb = getComputedStyle(document.body)[name].match(/[0-9.]+/g).slice(0, 3);
      const [r, g, b] = rgb.map(v => (v / 255) ** 2.2);
      return 0.2126 * r + 0.7152 * g + 0.0722 * b;
    }"""
    text, ground = (tab.evaluate(luminance, name) for name in ("color", "backgroundColor"))
    assert (ground < text) == (scheme == "dark")
    assert (max(text, ground) + 0.05) / (min(text, ground) + 0.05) >= 7


@pytest.mark.browser
def test_a_point_names_its_method_and_seed_and_a_click_opens_its_record(visit):
    tab = visit(viewport={"width": 1280, "height": 900})
    tab.select_option("#cost", index=1)
    box = tab.query_selector("#chart .u-over").bounding_box()
    names = set()
    for across in range(0, int(box["width"]), 8):
        for down in range(0, int(box["height"]), 12):
            tab.mouse.move(box["x"] + across, box["y"] + down)
            if tab.is_visible("#tip"):
                names.add(tab.inner_text("#tip").split(":")[0])
                place = (box["x"] + across, box["y"] + down)
                name = tab.inner_text("#tip").split(",")[0]
        if len(names) > 1:
            break
    assert names and all(re.fullmatch(r"\w+ 0\.\d+, seed 0", each) for each in names)
    tab.mouse.click(*place)
    tab.wait_for_function("location.hash.length > 2")
    opened = tab.inner_text("details[open]")
    assert name.split()[0] in opened.splitlines()[0]


@pytest.mark.browser
def test_a_method_is_hidden_and_shown_again(visit):
    tab = visit()
    chip = "#chips button:text-is('taylor')"
    assert tab.get_attribute(chip, "aria-pressed") == "true"
    before = tab.evaluate("document.querySelector('#chart canvas').toDataURL()")
    tab.click(chip)
    assert tab.get_attribute(chip, "aria-pressed") == "false"
    hidden = tab.evaluate("document.querySelector('#chart canvas').toDataURL()")
    tab.click(chip)
    again = tab.evaluate("document.querySelector('#chart canvas').toDataURL()")
    assert before == again != hidden


@pytest.mark.browser
def test_a_phone_shows_a_result_on_its_first_screen(visit):
    tab = visit(viewport={"width": 390, "height": 844}, is_mobile=True, has_touch=True)
    bottom = "document.querySelector('{}').getBoundingClientRect().bottom"
    assert tab.evaluate(bottom.format("#finding b")) < 844
    top = tab.evaluate("document.querySelector('#chart').getBoundingClientRect().top")
    assert top < 700  # most of the title is one long name here


@pytest.mark.browser
def test_figures_stand_two_in_a_row_and_speeds_are_in_sight(visit):
    tab = visit(viewport={"width": 1280, "height": 900})
    tops = tab.evaluate(
        "[...document.querySelectorAll('figure:not(.broad)')].map(f => f.offsetTop)"
    )
    assert len(tops) > len(set(tops)) or len(tops) < 2
    right = tab.evaluate("""[...document.querySelectorAll('th')]
        .filter(th => th.innerText.startsWith('Speed-up'))
        .map(th => th.getBoundingClientRect().right)""")
    assert len(right) == 2


@pytest.mark.browser
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_figures_have_the_ground_of_the_page(visit, scheme):
    tab = visit(color_scheme=scheme)
    tab.evaluate("document.querySelectorAll('img').forEach(i => { i.loading = 'eager' })")
    tab.wait_for_function("[...document.images].every(i => i.complete && i.naturalWidth > 200)")
    corner = tab.evaluate("""[...document.images].map(image => {
      const canvas = document.createElement('canvas');
      canvas.width = canvas.height = 1;
      const context = canvas.getContext('2d');
      context.drawImage(image, 0, 0, 1, 1, 0, 0, 1, 1);
      return context.getImageData(0, 0, 1, 1).data[0];
    })""")
    assert all(value > 250 if scheme == "light" else value < 40 for value in corner)
