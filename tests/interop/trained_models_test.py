"""Models that conclave trained, in transformers: the same loss on the held-out text, the same greedy text."""
import pathlib
import re

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from common import SOURCE, check, conclave, own_text
from odd_strings import STRINGS

SEQUENCE = 128
SMALL = [f"model.max_seq={SEQUENCE}", "model.layers=2", "model.d_model=64", "model.heads=4", "model.kv_heads=2",
         "model.head_dim=16", "moe.d_ff=48", "train.steps=60", "train.eval_every=0", "checkpoint.every=0",
         "schedule.warmup_steps=10", "train.global_batch=8", "data.valid_fraction=0.05", "precision.compute=fp32"]  # fmt: skip


def held_out_loss(model, text, fraction):
    """Mean over the last `fraction` of the text, in windows of SEQUENCE as conclave cuts them."""
    held_out = int(fraction * len(text))
    begin = len(text) - held_out
    total = 0.0
    for first in range(begin, len(text), SEQUENCE):
        last = min(first + SEQUENCE, len(text))
        inputs = torch.tensor([list(text[first - 1 : last - 1])])
        targets = torch.tensor(list(text[first:last]))
        with torch.no_grad():
            logits = model(input_ids=inputs).logits[0].float()
        total += torch.nn.functional.cross_entropy(logits, targets, reduction="sum").item()
    return total / held_out


def greedy(model, prompt, count):
    ids = torch.tensor([list(prompt)])
    for _ in range(count):
        with torch.no_grad():
            logits = model(input_ids=ids).logits[0, -1]
        ids = torch.cat([ids, logits.argmax().reshape(1, 1)], dim=1)
    return bytes(ids[0].tolist())


def check_trained(preset, model_type, text, overrides):
    """Trains the preset, made small, on two ranks, and takes it to transformers."""
    pathlib.Path("text.txt").write_bytes(text)
    run = f"run_{preset}_{model_type}"
    conclave("train", SOURCE / "configs" / f"{preset}.yaml", f"run.dir={run}", *SMALL, *overrides,
             "data.train=[{name: text, path: text.txt}]", ranks=2)  # fmt: skip
    conclave("checkpoint", "export", run, "--format", "hf", "--out", f"{run}_hf")
    model, info = AutoModelForCausalLM.from_pretrained(f"{run}_hf", output_loading_info=True)
    clean = not any(info[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    check(clean and model.config.model_type == model_type, f"{preset}: transformers loads it as {model_type}")

    ours = float((pathlib.Path(run) / "evaluation.tsv").read_text().splitlines()[1].split("\t")[3])
    # `conclave eval` of the checkpoint prints the same number, rounded.
    said = re.search(rb"^text +[\d,]+ +([0-9.]+)", conclave("eval", run), re.MULTILINE)
    check(said and abs(float(said.group(1)) - ours) < 6e-5, f"{preset}: eval prints {ours:.4f}")
    theirs = held_out_loss(model, text, fraction=0.05)
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
