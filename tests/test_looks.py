"""The committed reports as a browser shows them on phones, tablets and desks, measured."""

import html
import json
import re
import shutil
import subprocess
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest

ROOT = Path(__file__).parents[1]
PAGES = sorted((ROOT / "reports").glob("*/report.html"))
NAMES = ("google-chrome", "chromium", "chromium-browser")
BROWSER = next(filter(None, map(shutil.which, NAMES)), None)
WIDTHS = (360, 400, 768, 1280)  # px
SMALLEST = 12  # px, of the page's own text
# Pictures have letters of 9 points (plots.differences) and more, drawn at 150 dots an inch. On the
# screen they are to have 11 px, as the smallest texts of phones' own applications have.
LETTERS = 11
DOTS = 9 / 72 * 150

pytestmark = pytest.mark.skipif(BROWSER is None, reason=f"no browser: none of {', '.join(NAMES)}")

# A browser's window is never narrower than 500 px, but a frame is, and media queries go by it.
# The page inside is of its parent's origin because it is srcdoc.
WRAPPER = """<!DOCTYPE html>
<meta charset="utf-8">
<body>
{frames}
<script>
function measure(frame) {{
  const page = frame.contentDocument, width = frame.clientWidth;
  const style = element => frame.contentWindow.getComputedStyle(element);
  const all = [...page.body.querySelectorAll("*")];
  const scrolls = element => ["auto", "scroll"].includes(style(element).overflowX);
  const name = element => `<${{element.localName}}> ${{element.textContent.trim().slice(0, 30)}}`;
  const box = element => {{
    do element = element.parentElement; while (element && !scrolls(element));
    return element;
  }};
  const sticksOut = element => {{
    const {{ left, right }} = element.getBoundingClientRect();
    return left < -1 || right > width + 1;
  }};
  const shown = element => {{
    const inner = element.getBoundingClientRect(), outer = box(element)?.getBoundingClientRect();
    return Math.min(inner.right, outer?.right ?? width, width)
      - Math.max(inner.left, outer?.left ?? 0, 0);
  }};
  const texts = [], walk = page.createTreeWalker(page.body, NodeFilter.SHOW_TEXT);
  while (walk.nextNode()) {{
    const element = walk.currentNode.parentElement;
    if (walk.currentNode.data.trim() && element.getClientRects().length)
      texts.push([parseFloat(style(element).fontSize), name(element)]);
  }}
  return {{
    viewport: page.querySelector("meta[name=viewport]")?.content ?? "",
    width: page.documentElement.scrollWidth,
    outside: all.filter(element => !box(element) && sticksOut(element)).map(name),
    unreachable: all.filter(element => scrolls(element) && element.tabIndex < 0
      && element.scrollWidth > element.clientWidth).map(name),
    texts,
    images: [...page.images].map(image => ({{
      alt: image.alt.trim(), natural: image.naturalWidth, shown: shown(image),
      width: image.getBoundingClientRect().width,
    }})),
    links: [...page.links].map(link => link.getAttribute("href")),
    ids: [...page.querySelectorAll("[id]")].map(element => element.id),
  }};
}}

window.onload = () => {{
  const found = Array.from(document.querySelectorAll("iframe"), measure);
  document.body.textContent = JSON.stringify(found);
}};
</script>
"""


def measures(text, tmp_path):
    """What a browser says of the page `text` at each of `WIDTHS`, and its console's lines."""
    frame = '<iframe style="border: 0; width: {}px; height: 800px" srcdoc="{}"></iframe>'
    wrapper = tmp_path / "wrapper.html"
    frames = "\n".join(frame.format(width, html.escape(text)) for width in WIDTHS)
    wrapper.write_text(WRAPPER.format(frames=frames), encoding="utf-8")
    # Scroll bars lie over the page on phones; elsewhere they would take some of each width.
    done = subprocess.run(
        [BROWSER, "--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars",
         "--enable-logging=stderr", f"--user-data-dir={tmp_path / 'profile'}", "--dump-dom",
         wrapper.as_uri()],
        check=True, capture_output=True, text=True, encoding="utf-8", timeout=120,
    )  # fmt: skip
    body = re.search(r"<body>(.*)</body>", done.stdout, re.DOTALL)[1]
    console = [line for line in done.stderr.splitlines() if ":CONSOLE" in line]
    return json.loads(html.unescape(body)), console


def faults(text, folder, tmp_path):
    """A line for each thing that is wrong with the page `text`, whose files are in `folder`."""
    found, lines = measures(text, tmp_path)
    page = found[0]
    if "width=device-width" not in page["viewport"]:
        lines.append("phones would show it as wide as a desk's")
    lines += ["a picture without alternative text" for image in page["images"] if not image["alt"]]
    for link in page["links"]:
        parts = urlsplit(link)
        if parts.scheme:
            continue  # not this report's, and tests go nowhere
        path, name = unquote(parts.path), unquote(parts.fragment)
        if not (folder / path).exists() or (name and not path and name not in page["ids"]):
            lines.append(f"dead link: {link}")
    for width, page in zip(WIDTHS, found, strict=True):
        said = []
        if page["width"] > width:
            said.append(f"scrolls sideways, over {page['width']} px")
        said += [f"sticks out: {name}" for name in page["outside"]]
        said += [f"scrolls by touch alone: {name}" for name in page["unreachable"]]
        said += [f"{px:.2f} px: {name}" for px, name in page["texts"] if px < SMALLEST]
        for image in page["images"]:
            if not image["natural"]:
                said.append(f"no picture: {image['alt']}")
                continue
            letters = DOTS * image["width"] / image["natural"]
            if letters < LETTERS:
                said.append(f"picture's letters of {letters:.1f} px: {image['alt']}")
            if image["shown"] < 300:
                said.append(f"{image['shown']:.0f} px of a picture to see: {image['alt']}")
        lines += [f"at {width} px: {line}" for line in said]
    return lines


@pytest.mark.parametrize("page", PAGES, ids=[page.parent.name for page in PAGES])
def test_a_report_is_readable_at_every_width(page, tmp_path):
    assert faults(page.read_text(encoding="utf-8"), page.parent, tmp_path) == []


def test_what_is_wrong_with_a_page_is_found(tmp_path):
    """So that the test above can fail."""
    picture = "<svg xmlns='http://www.w3.org/2000/svg' width='1200' height='600'></svg>"
    text = f"""<!DOCTYPE html>
<body style="margin: 0">
<div style="width: 2000px">wide</div>
<div style="overflow-x: auto" tabindex="-1"><p style="width: 1600px">by touch</p></div>
<p style="font-size: 9px">small</p>
<img alt="" width="200" src="data:image/svg+xml,{picture}">
<img alt="lost" width="800" src="no.png">
<a href="#no">in</a> <a href="no.csv">out</a> <a href="some%20file.csv">there</a>
<script>throw new Error("a script failed")</script>
"""
    (tmp_path / "some file.csv").touch()
    everywhere = [
        "scrolls sideways, over 2000 px",
        "sticks out: <div> wide",
        "scrolls by touch alone: <div> by touch",
        "9.00 px: <p> small",
        "picture's letters of 3.1 px: ",
        "200 px of a picture to see: ",
        "no picture: lost",
    ]
    once = [
        "phones would show it as wide as a desk's",
        "a picture without alternative text",
        "dead link: #no",
        "dead link: no.csv",
    ]
    console, *found = faults(text, tmp_path, tmp_path)
    found = [line for line in found if ":CONSOLE" not in line]
    assert "a script failed" in console
    assert found == once + [f"at {width} px: {line}" for width in WIDTHS for line in everywhere]
