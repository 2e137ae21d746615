"""Models that transformers made, in conclave: the same bits back, the same training."""
import pathlib

import torch
from safetensors import safe_open
from transformers import AutoModelForCausalLM

from common import GOLDEN, check, conclave, records
from make_golden_models import adamw_losses, balance_of, gradients_by_saved_name, loss_of


def tensors_of(directory):
    tensors = {}
    for file in pathlib.Path(directory).glob("*.safetensors"):
        if file.name == "reference.safetensors":
            continue
        with safe_open(file, "pt") as contents:
            tensors |= {name: contents.get_tensor(name) for name in contents.keys()}
    return tensors


def check_golden(name):
    """The recorded numbers, which tests without Python compare with, are those of this transformers and PyTorch."""
    model = AutoModelForCausalLM.from_pretrained(GOLDEN / name, dtype=torch.float32).train()
    model.set_attn_implementation("eager")
    model.set_experts_implementation("eager")
    with safe_open(GOLDEN / name / "reference.safetensors", "pt") as file:
        reference = {key: file.get_tensor(key) for key in file.keys()}
    loss, output = loss_of(model, reference["tokens"], output_router_logits=True)
    loss.backward()
    now = {"logits": output.logits.detach(), "loss": loss.detach().reshape(1)}
    for layer, logits in enumerate(output.router_logits):
        now[f"balance/{layer}"] = balance_of(logits)
    gradients = gradients_by_saved_name(model, pathlib.Path(name))
    now |= {f"gradient/{tensor}": gradient for tensor, gradient in gradients.items()}
    now["adamw_losses"] = adamw_losses(model, reference["tokens"])
    check(now.keys() == reference.keys() - {"tokens"}, f"{name}: {len(now)} recorded tensors")
    worst = max((now[key] - reference[key]).abs().max() / reference[key].abs().max() for key in now)
    check(worst < 1e-5, f"{name}: they are computed again, within {worst:.1e} of the largest of each")


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
    for golden in ("mixtral", "qwen3_moe", "olmoe"):
        check_golden(golden)
        check_imported(golden)
        check_fine_tuning(golden)
