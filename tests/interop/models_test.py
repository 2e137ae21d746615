"""Models that conclave trained, in transformers: the same loss on the held-out text, the same greedy text.
Models that transformers made, in conclave: the same bits back, the same training."""
import pathlib
import re

import torch
from safetensors import safe_open
from transformers import AutoModelForCausalLM, AutoTokenizer

from common import GOLDEN, SOURCE, check, conclave, own_text, records
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


def tensors_of(directory):
    tensors = {}
    for file in pathlib.Path(directory).glob("*.safetensors"):
        if file.name == "reference.safetensors":
            continue
        with safe_open(file, "pt") as contents:
            tensors |= {name: contents.get_tensor(name) for name in contents.keys()}
    return tensors


def check_imported(name):
    """bf16 in many files, as transformers writes them, and back."""
    model = AutoModelForCausalLM.from_pretrained(GOLDEN / name, dtype=torch.bfloat16)
    model.save_pretrained(f"{name}_bf16", max_shard_size="3KB")
    check(len(list(pathlib.Path(f"{name}_bf16").glob("*.safetensors"))) > 2, f"{name}: transformers wrote several files")
    conclave("checkpoint", "import", f"{name}_bf16", "--out", f"{name}_checkpoint")
    conclave("checkpoint", "export", f"{name}_checkpoint", "--format", "hf", "--out", f"{name}_back", "--dtype", "bf16")
    before, after = tensors_of(f"{name}_bf16"), tensors_of(f"{name}_back")
    same = before.keys() == after.keys() and all(torch.equal(before[key], after[key]) for key in before)
    check(same and len(before) > 30, f"{name}: {len(before)} tensors come back bit for bit")


def check_fine_tuning(name):
    """`conclave train` from the golden weights beside torch.optim.AdamW, on one rank and on two."""
    with safe_open(GOLDEN / name / "reference.safetensors", "pt") as reference:
        tokens, losses = reference.get_tensor("tokens"), reference.get_tensor("adamw_losses").tolist()
    text = tokens[0].tolist() + [token for row in tokens[1:].tolist() for token in row[1:]]
    pathlib.Path("tokens.bin").write_bytes(b"".join(token.to_bytes(2, "little") for token in text))
    conclave("checkpoint", "import", GOLDEN / name, "--out", f"{name}_start")
    pathlib.Path(f"{name}_tune.yaml").write_text(
        f"""base: {name}_start.yaml
model: {{max_seq: {tokens.shape[1] - 1}}}
moe: {{balance_loss: 0}}
data: {{tokenizer: pretokenized, valid_fraction: 0, train: [{{name: text, path: tokens.bin}}]}}
optim: {{lr: 3e-3, weight_decay: 0.1, betas: [0.9, 0.95], eps: 1e-8, grad_clip: 0}}
schedule: {{kind: constant, warmup_steps: 0}}
train: {{steps: {len(losses)}, global_batch: {tokens.shape[0]}, micro_batch: {tokens.shape[0]}, eval_every: 0}}
precision: {{compute: fp32}}
log: {{every: 1}}
"""
    )
    for ranks in (1, 2):
        run = f"tuned_{name}_{ranks}"
        conclave("train", f"{name}_tune.yaml", f"run.dir={run}", ranks=ranks)
        ours = [record["loss"] for record in records(run, "step")]
        worst = max(abs(a - b) for a, b in zip(ours, losses, strict=True))
        check(worst < 1e-4, f"{name}: {len(losses)} steps of AdamW on {ranks} ranks, losses differ by {worst:.1e}")


if __name__ == "__main__":
    torch.set_num_threads(1)
    text = own_text()[:120_000]
    check_trained("quickstart", "qwen3_moe", text, ["moe.experts=8"])
    check_trained("mixtral", "mixtral", text, ["model.qk_norm=false"])
    check_trained("mixtral", "qwen3_moe", text, ["moe.every=2", "model.tie_embeddings=false"])
    check_trained("quickstart", "olmoe", text, ["model.qk_norm_over=width", "moe.normalize_top_k=false"])
    for golden in ("mixtral", "qwen3_moe", "olmoe"):
        check_imported(golden)
        check_fine_tuning(golden)
