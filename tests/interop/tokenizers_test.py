"""Ids of `conclave data prepare` against tokenizers and SentencePiece, on a megabyte and a half of mixed text: more than
one part."""
import json
import pathlib
import struct
import time

import sentencepiece
from tokenizers import Tokenizer

from common import GOLDEN, check, conclave
from odd_strings import mixed_text


def prepared_ids(prefix):
    """Reads Megatron's files by their description."""
    index = pathlib.Path(f"{prefix}.idx").read_bytes()
    check(index[:9] == b"MMIDIDX\0\0" and struct.unpack("<Q", index[9:17]) == (1,), f"{prefix}: the index's header")
    width, letter = {1: (1, "B"), 8: (2, "H"), 4: (4, "i")}[index[17]]
    tokens = pathlib.Path(f"{prefix}.bin").read_bytes()
    return list(struct.unpack(f"<{len(tokens) // width}{letter}", tokens))


if __name__ == "__main__":
    text = mixed_text(1_500_000)
    pathlib.Path("mixed.txt").write_bytes(text.encode())
    for file in sorted((GOLDEN / "tokenizers").glob("*.json")):
        if file.name == "ids.json":
            continue
        expected = Tokenizer.from_file(str(file)).encode(text, add_special_tokens=False).ids
        begin = time.monotonic()
        said = conclave("data", "prepare", "mixed.txt", "--tokenizer", file, "--out", file.stem, "--threads", 2)
        seconds = time.monotonic() - begin
        check(prepared_ids(file.stem) == expected, f"{file.name}: {len(expected)} ids are the same ({seconds:.2f} s)")
        check(b"1 documents" in said, f"{file.name}: one document")

    model = GOLDEN / "tokenizers" / "bpe.model"
    lines = [line for line in text.split("\n") if line.strip()]
    pathlib.Path("lines.jsonl").write_text("".join(json.dumps({"text": line}) + "\n" for line in lines))
    processor = sentencepiece.SentencePieceProcessor(model_file=str(model))
    expected = [token for ids in processor.encode(lines) for token in ids]
    conclave("data", "prepare", "lines.jsonl", "--tokenizer", model, "--out", "lines", "--threads", 2)
    check(prepared_ids("lines") == expected, f"bpe.model: {len(expected)} ids of {len(lines)} documents are the same")

    conclave("tokenizer", "train", "mixed.txt", "--vocab-size", 900, "--out", "learnt.model")
    learnt = sentencepiece.SentencePieceProcessor(model_file="learnt.model")
    check(learnt.get_piece_size() == 900, "a model that conclave learnt opens in SentencePiece")
