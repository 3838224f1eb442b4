"""Clean a prompt as DeepFloyd IF cleans captions, which many text-to-image pipelines do after it.

The rules and their order are those of `deepfloyd_if/modules/t5.py`. Its repair of wrongly decoded text (the library
ftfy) is limited to what can be told without statistics of languages: quotes, ligatures, wide letters and composed
characters.
"""

import re
import unicodedata
from html import unescape
from html.parser import HTMLParser
from urllib.parse import unquote_plus

QUOTES = str.maketrans(
    dict.fromkeys("\u2018\u2019\u201a\u201b\u02bc", "'") | dict.fromkeys("\u201c\u201d\u201e\u201f", '"')
)
LIGATURES = str.maketrans({"\ufb00": "ff", "\ufb01": "fi", "\ufb02": "fl", "\ufb03": "ffi", "\ufb04": "ffl"})
HIDDEN = ("script", "style", "template")  # elements of HTML whose text is not read
DOMAIN = r"[a-zA-Z0-9.\-]+[.](?:com|co|ru|net|org|edu|gov|it)[\w/-]*\b\/?(?!@)"
URLS = rf"\b((?:(?:https?|www):(?:\/{{1,3}}|[a-zA-Z0-9%])|{DOMAIN}))"
FILES = "png|jpg|jpeg|bmp|webp|eps|pdf|apk|mp4"
DASHES = (
    r"[\u002D\u058A\u05BE\u1400\u1806\u2010-\u2015\u2E17\u2E1A\u2E3A\u2E3B\u2E40\u301C\u3030\u30A0"
    r"\uFE31\uFE32\uFE58\uFE63\uFF0D]+"
)
Rules = tuple[tuple[str, str], ...]  # regular expressions with their replacements, in order

BEFORE_REPAIR: Rules = (
    (r"@[\w\d]+\b", ""),
    (r"[\u31c0-\u4dff\u4e00-\u9fff]+", ""),  # CJK
    (DASHES, "-"),
    (r"[`\u00b4\u00ab\u00bb\u00a8]", '"'),
    (r"&quot;?", ""),
    (r"&amp", ""),
    (r"\d{1,3}\.\d{1,3}\.\d{1,3}\.\d{1,3}", " "),  # addresses of networks
    (r"\d:\d\d\s+$", ""),
    (r"\\n", " "),
    (r"#\d{1,3}\b", ""),
    (r"#\d{5,}\b", ""),
    (r"\b\d{6,}\b", ""),
    (rf"[\S]+\.(?:{FILES})", ""),
    (r"[\"\']{2,}", '"'),
    (r"[\.]{2,}", " "),
    (r"[#®•©™&@·º½¾¿¡§~\)\(\]\[\}\{\|\\\/\*]+", " "),
    (r"\s+\.\s+", " "),
)
AFTER_REPAIR: Rules = (
    (r"\b[a-zA-Z]{1,3}\d{3,15}\b", ""),  # jc6640
    (r"\b[a-zA-Z]+\d+[a-zA-Z]+\b", ""),
    (r"\b\d+[a-zA-Z]+\d+\b", ""),
    (r"(worldwide\s+)?(free\s+)?shipping", ""),
    (r"(free\s)?download(\sfree)?", ""),
    (r"\bclick\b\s(?:for|on)\s\w+", ""),
    (rf"\b(?:{FILES})(\simage[s]?)?", ""),
    (r"\bpage\s+\d+\b", ""),
    (r"\b\d*[a-zA-Z]+\d+[a-zA-Z]+\d+[a-zA-Z\d]*\b", " "),
    (r"\b\d+\.?\d*[x\u0445\u00d7]\d+\.?\d*\b", ""),  # sizes
    (r"\b\s+\:\s+", ": "),
    (r"(\D[,\./])\b", r"\1 "),
    (r"\s+", " "),
    (r"^[\"\']([\w\W]+)[\"\']$", r"\1"),
    (r"^[\'\_,\-\:;]", ""),
    (r"[\'\_,\-\:\-\+]$", ""),
    (r"^\.\S+$", ""),
)
MOST_DASHES = 3  # with more, each joins two words


def clean_html_caption(text: str) -> str:
    """Return a caption that may contain HTML, cleaned twice, as IF does it."""
    return _clean_html(_clean_html(text))


def clean_caption(text: str) -> str:
    """Return a caption without HTML, cleaned once, as PRX does it."""
    return _clean_parts(_remove_urls(text)).strip()


def _clean_html(text: str) -> str:
    reader = _HtmlText()
    reader.feed(_remove_urls(text))
    reader.close()
    return _clean_parts("".join(reader.texts).translate(QUOTES), strips=False).strip()


def _remove_urls(text: str) -> str:
    lower = unquote_plus(text).strip().lower()
    return re.sub(URLS, "", lower.replace("<person>", "person"))


def _clean_parts(text: str, strips: bool = True) -> str:
    text = _apply(BEFORE_REPAIR, text)
    text = re.sub("[-_]", " ", text) if len(re.findall("[-_]", text)) > MOST_DASHES else text
    text = unescape(unescape(repair_text(text)))
    return _apply(AFTER_REPAIR, text.strip() if strips else text)


def repair_text(text: str) -> str:
    """Return a text with straight quotes and without ligatures, wide letters and decomposed characters."""
    narrow = (unicodedata.normalize("NFKC", c) if "\uff01" <= c <= "\uffee" or c == "\u3000" else c for c in text)
    return unicodedata.normalize("NFC", "".join(narrow).translate(LIGATURES).translate(QUOTES))


def _apply(rules: Rules, text: str) -> str:
    for pattern, replacement in rules:
        text = re.sub(pattern, replacement, text)
    return text


class _HtmlText(HTMLParser):
    """Collects the text of HTML in `texts`."""

    def __init__(self) -> None:
        super().__init__()
        self.texts: list[str] = []
        self.hidden = 0

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.hidden += tag in HIDDEN

    def handle_endtag(self, tag: str) -> None:
        self.hidden -= tag in HIDDEN and self.hidden > 0

    def handle_data(self, data: str) -> None:
        if not self.hidden:
            self.texts.append(data)
