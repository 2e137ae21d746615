"""The presets in their full size: trained on two ranks, exported, and taken to transformers. The loss on the held-out
text is that of `conclave eval`, 64 greedy tokens are those of `conclave generate`.

Needs the texts of launch/prepare_quickstart_data.sh. As it stands 40 steps are trained and a hundredth of each text is
held out, some minutes; CONCLAVE_INTEROP_STEPS=300 trains for longer, CONCLAVE_INTEROP_STEPS=preset as the preset says.
"""
import os
import pathlib
import re
import sys

from common import SOURCE, check, conclave
from hugging_face import greedy, held_out_loss, load

STEPS = os.environ.get("CONCLAVE_INTEROP_STEPS", "40")
PROMPTS = ["Ge1:1 In the ", "#include <"]


def settings():
    if STEPS == "preset":
        return []
    return [f"train.steps={STEPS}", "schedule.warmup_steps=10", "train.eval_every=0", "checkpoint.every=0", "data.valid_fraction=0.01"]


def evaluated(run):
    """Bytes and loss of each source as `conclave eval` prints them; products in fp32, as transformers computes them."""
    table = conclave("eval", run, "precision.compute=fp32", ranks=2).decode()
    rows = re.findall(r"^ *(\w+) +([\d,]+) +([0-9.]+) +[0-9.]+ *$", table, re.MULTILINE)
    return {name: (int(count.replace(",", "")), float(loss)) for name, count, loss in rows}


def check_preset(preset, model_type, sequence, overrides=()):
    name = " ".join([preset, *overrides])
    run = f"runs/{preset}_{model_type}"
    conclave("train", SOURCE / "configs" / f"{preset}.yaml", f"run.dir={run}", *settings(), *overrides, ranks=2)
    conclave("checkpoint", "export", run, "--format", "hf", "--out", f"{run}_hf")
    model = load(f"{run}_hf", model_type, name)

    ours = evaluated(run)
    check(list(ours) == ["kjv", "cpp", "de", "fr", "all"], f"{name}: eval tells the loss of four sources and of all")
    held_out, loss = ours.pop("all")
    total = 0.0
    for source, (bytes_held_out, loss_of_source) in ours.items():
        text = pathlib.Path("data", f"{source}.txt").read_bytes()
        theirs = held_out_loss(model, text, bytes_held_out, sequence)
        total += theirs * bytes_held_out
        check(abs(loss_of_source - theirs) < 1e-4,
              f"{name}: {source}, {bytes_held_out} bytes: {loss_of_source:.4f}, in transformers {theirs:.6f}")  # fmt: skip
    check(abs(loss - total / held_out) < 1e-4, f"{name}: all: {loss:.4f}, in transformers {total / held_out:.6f}")

    for prompt in PROMPTS:
        written = conclave("generate", run, "--prompt", prompt, "--tokens", 64, "--temperature", 0)
        theirs = greedy(model, prompt.encode(), 64)
        check(written == theirs + b"\n", f"{name}: 64 greedy tokens are the same: {theirs!r}")


if __name__ == "__main__":
    if not (SOURCE / "data" / "kjv.txt").exists():
        print("skipped: no texts in data/; launch/prepare_quickstart_data.sh makes them")
        sys.exit(77)
    pathlib.Path("data").symlink_to(SOURCE / "data")
    check_preset("quickstart", "qwen3_moe", sequence=256)
    check_preset("mixtral", "qwen3_moe", sequence=128)
    # The preset normalises queries and keys, as all classics do; without that it is Mixtral to the letter.
    check_preset("mixtral", "mixtral", sequence=128, overrides=["model.qk_norm=false"])
