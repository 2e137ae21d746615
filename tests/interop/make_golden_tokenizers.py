#!/usr/bin/env python3
"""Makes tests/interop/golden/tokenizers/: small tokenizers, and the ids that Hugging Face tokenizers and
SentencePiece give to odd strings.

  /path/to/venv/bin/python tests/interop/make_golden_tokenizers.py     (launch/setup-interop.sh makes the environment)

They are learnt from this repository's own documents. ids.json: {"strings": [hex, ...], "ids": {file: [[...], ...]}};
strings that are no UTF-8 reach the reference as Python decodes them, with U+FFFD for what is invalid.
"""
import io
import json
import pathlib

import sentencepiece
from odd_strings import STRINGS
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

ROOT = pathlib.Path(__file__).resolve().parents[2]
GOLDEN = pathlib.Path(__file__).parent / "golden" / "tokenizers"
QWEN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
LLAMA3 = QWEN.replace(r"\p{N}|", r"\p{N}{1,3}|")


def corpus():
    documents = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "docs" / "decisions.md"]
    texts = [document.read_text() for document in documents]
    # Scripts that the documents lack, often enough to be learnt.
    return texts + [text.decode("utf-8", "replace") for text in STRINGS] * 3


def byte_level(pattern, normalizer=None, ignore_merges=False):
    tokenizer = Tokenizer(models.BPE(ignore_merges=ignore_merges))
    if normalizer:
        tokenizer.normalizer = normalizer
    if pattern is None:
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    else:
        split = pre_tokenizers.Split(Regex(pattern), behavior="isolated")
        last = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
        tokenizer.pre_tokenizer = pre_tokenizers.Sequence([split, last])
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=700,
        special_tokens=["<|end|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(corpus(), trainer)
    return tokenizer


def metaspace(with_pre_tokenizer, prepend_scheme="first", split=False):
    """As the files of Mixtral and Llama 2 are: normalizers, or, newer, a pre-tokenizer."""
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    if with_pre_tokenizer:
        tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(replacement="▁", prepend_scheme=prepend_scheme, split=split)
    else:
        tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    # Learnt with words cut at spaces, so that tokens are words.
    learner = Tokenizer(models.BPE(unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    learner.pre_tokenizer = pre_tokenizers.Metaspace(replacement="▁", prepend_scheme="always", split=True)
    specials = ["<unk>", "<s>", "</s>"] + [f"<0x{byte:02X}>" for byte in range(256)]
    trainer = trainers.BpeTrainer(vocab_size=700, special_tokens=specials, limit_alphabet=150, show_progress=False)
    learner.train_from_iterator(corpus(), trainer)
    learnt = json.loads(learner.to_str())
    result = json.loads(tokenizer.to_str())
    result["model"]["vocab"] = learnt["model"]["vocab"]
    result["model"]["merges"] = learnt["model"]["merges"]
    # Runs of spaces, as Llama's vocabulary has them.
    spaces = len(result["model"]["vocab"])
    for length in (2, 4):
        result["model"]["vocab"]["▁" * length] = spaces
        result["model"]["merges"].append(["▁" * (length // 2)] * 2)
        spaces += 1
    # Bytes are ordinary tokens there; these three are added ones.
    result["added_tokens"] = [token for token in learnt["added_tokens"] if token["id"] < 3]
    result["decoder"] = {
        "type": "Sequence",
        "decoders": [
            {"type": "Replace", "pattern": {"String": "▁"}, "content": " "},
            {"type": "ByteFallback"},
            {"type": "Fuse"},
            {"type": "Strip", "content": " ", "start": 1, "stop": 0},
        ],
    }
    return Tokenizer.from_str(json.dumps(result))


def sentencepiece_model():
    """BPE: how unigram models break ties changes between versions of the library."""
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter([line for text in corpus() for line in text.split("\n") if "\0" not in line]),
        model_writer=model,
        model_type="bpe",
        vocab_size=700,
        byte_fallback=True,
        normalization_rule_name="identity",
        remove_extra_whitespaces=False,
        character_coverage=0.999,
        minloglevel=2,
    )
    return model.getvalue()


def main():
    GOLDEN.mkdir(parents=True, exist_ok=True)
    tokenizers = {
        "gpt2.json": byte_level(None),
        "qwen.json": byte_level(QWEN, normalizers.NFC()),
        "llama3.json": byte_level(LLAMA3, ignore_merges=True),
        "mixtral.json": metaspace(False),
        "metaspace_first.json": metaspace(True),
        "metaspace_split.json": metaspace(True, "always", True),
    }
    ids = {}
    texts = [text.decode("utf-8", "replace") for text in STRINGS]
    for name, tokenizer in tokenizers.items():
        (GOLDEN / name).write_text(json.dumps(json.loads(tokenizer.to_str()), ensure_ascii=False, separators=(",", ":")))
        ids[name] = [tokenizer.encode(text, add_special_tokens=False).ids for text in texts]
    model = GOLDEN / "bpe.model"
    model.write_bytes(sentencepiece_model())
    processor = sentencepiece.SentencePieceProcessor(model_file=str(model))
    ids[model.name] = [processor.encode(text) for text in texts]
    lines = [f'"{name}":{json.dumps(rows, separators=(",", ":"))}' for name, rows in ids.items()]
    strings = json.dumps([text.hex() for text in STRINGS], separators=(",", ":"))
    (GOLDEN / "ids.json").write_text(f'{{"strings":{strings},\n"ids":{{\n' + ",\n".join(lines) + "\n}}\n")


if __name__ == "__main__":
    main()
