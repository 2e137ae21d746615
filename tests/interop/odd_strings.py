"""Texts on which tokenizers go wrong, as bytes: some are no UTF-8."""

STRINGS = [
    b"",
    b" ",
    b"   ",
    b"\n",
    b"\r\n\r\n",
    b"\t \n  \n",
    b"Hello, world!",
    b" leading and trailing ",
    b"two  spaces   three    four",
    b"a\nb\n\nc \n d",
    b"It's he'll they've we'd I'm you're 'tis IT'S HE'LL",
    "'ſ and 's and ’s".encode(),
    b"x = y[0] + z_1;\n\tif (x != 3.14e-10) { return \"ok\"; }\n",
    b"def f(a, *, b=None):\n    return {**a, 'k': b}\n\n\nclass C:\n    pass\n",
    b"1234567890 12 1,234.56 0x7fff",
    "½ ² Ⅷ ٣٤ 一二三 ₹100".encode(),
    "naïve café Ångström über straße".encode(),
    "nai\u0308ve cafe\u0301 A\u030angstro\u0308m".encode(),  # the same, decomposed
    "ﬁne ﬃ ﬆ K Å".encode(),
    "日本語のテキスト、中文文本。한국어".encode(),
    "العربية نص مع تشكيل مُحَمَّد".encode(),
    "עברית Ελληνικά Русский".encode(),
    "हिन्दी தமிழ் ไทย".encode(),
    "😀 👍🏽 👨‍👩‍👧‍👦 🇩🇪 ❤️".encode(),
    "\u00a0no\u00a0break\u3000ideographic\u2028line\u2029par\u0085nel".encode(),
    "zero\u200bwidth\ufeffbom\u00adsoft".encode(),
    "▁metaspace ▁ itself▁".encode(),
    b"<s>special</s> <unk> <|end|> and <|end|><|end|>",
    b"<0x41> <0xE2>",
    b"!!!???...---===###",
    b"https://example.org/a?b=c&d=%20e#f",
    b"\x00\x01\x7f",
    b"\xff",
    b"ok \xc3( broken \xe2\x82 cut \xf0\x9f\x98",
    b"\xc0\xaf overlong \xed\xa0\x80 surrogate \xf4\x90\x80\x80 beyond",
    b"\xe4\xb8",
    "\U00010348 𝒳𝓎 𐍈".encode(),
    b"a" * 200,
    b" " * 100 + b"x",
    "ab" * 50 + "c",
    b"\n\n\n\n    indented\n        more\n",
    b"word" + b"\n" * 7 + b"word",
    b"mixed\r\nline\rends\n",
]
STRINGS = [text.encode() if isinstance(text, str) else text for text in STRINGS]


def mixed_text(size):
    """About `size` bytes of all of them and of words, code and numbers, always the same."""
    state, parts, length = 12345, [], 0
    words = "the of token expert routes größer здесь 中文字 函数 const auto std::vector<int> 3.14 2026 \n \n\n\t".split(" ")
    while length < size:
        state = (state * 1103515245 + 12345) % 2**31
        choice = state >> 8
        if choice % 97 == 0:
            part = STRINGS[choice // 97 % len(STRINGS)].decode("utf-8", "replace")
        else:
            part = words[choice % len(words)] + (" " if choice % 5 else "")
        parts.append(part)
        length += len(part.encode())
    return "".join(parts)
