"""Models that conclave trained, in transformers: the same loss on the held-out text, the same greedy text."""
import pathlib
import re

import torch
from transformers import AutoTokenizer

from common import SOURCE, check, conclave, own_text
from hugging_face import greedy, held_out_loss, load
from odd_strings import STRINGS

SEQUENCE = 128
SMALL = [f"model.max_seq={SEQUENCE}", "model.layers=2", "model.d_model=64", "model.heads=4", "model.kv_heads=2",
         "model.head_dim=16", "moe.d_ff=48", "train.steps=60", "train.eval_every=0", "checkpoint.every=0",
         "schedule.warmup_steps=10", "train.global_batch=8", "data.valid_fraction=0.05", "precision.compute=fp32"]  # fmt: skip


def check_trained(preset, model_type, text, overrides):
    """Trains the preset, made small, on two ranks, and takes it to transformers."""
    pathlib.Path("text.txt").write_bytes(text)
    run = f"run_{preset}_{model_type}"
    conclave("train", SOURCE / "configs" / f"{preset}.yaml", f"run.dir={run}", *SMALL, *overrides,
             "data.train=[{name: text, path: text.txt}]", ranks=2)  # fmt: skip
    conclave("checkpoint", "export", run, "--format", "hf", "--out", f"{run}_hf")
    model = load(f"{run}_hf", model_type, preset)

    ours = float((pathlib.Path(run) / "evaluation.tsv").read_text().splitlines()[1].split("\t")[3])
    # `conclave eval` of the checkpoint prints the same number, rounded.
    said = re.search(rb"^text +[\d,]+ +([0-9.]+)", conclave("eval", run), re.MULTILINE)
    check(said and abs(float(said.group(1)) - ours) < 6e-5, f"{preset}: eval prints {ours:.4f}")
    theirs = held_out_loss(model, text, int(0.05 * len(text)), SEQUENCE)
    check(abs(ours - theirs) < 1e-4, f"{preset}: held-out loss {ours:.6f}, in transformers {theirs:.6f}")

    prompt = b"The loss of "
    written = conclave("generate", run, "--prompt", prompt.decode(), "--tokens", 64, "--temperature", 0)
    check(written == greedy(model, prompt, 64) + b"\n", f"{preset}: 64 greedy tokens are the same")

    tokenizer = AutoTokenizer.from_pretrained(f"{run}_hf")
    texts = [string.decode("utf-8", "replace") for string in STRINGS]
    same = all(tokenizer(text, add_special_tokens=False)["input_ids"] == list(text.encode()) for text in texts)
    check(same, f"{preset}: its tokenizer.json gives bytes")


if __name__ == "__main__":
    torch.set_num_threads(1)
    text = own_text()[:120_000]
    check_trained("quickstart", "qwen3_moe", text, ["moe.experts=8"])
    check_trained("mixtral", "mixtral", text, ["model.qk_norm=false"])
    check_trained("mixtral", "qwen3_moe", text, ["moe.every=2", "model.tie_embeddings=false"])
    check_trained("quickstart", "olmoe", text, ["model.qk_norm_over=width", "moe.normalize_top_k=false"])
