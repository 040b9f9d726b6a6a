"""Write marie.json: reference results of MARIE on given inputs, for ``tests/parity/test_marie.py``.

The repository of the paper (https://github.com/breez3young/MARIE) is run, nothing of it is part of this library:

    git clone https://github.com/breez3young/MARIE /tmp/marie
    git -C /tmp/marie checkout b2a60f6a4943e1810501952f11ae8ab9585df39a
    .venv/bin/python tests/parity/data/marie_reference.py --marie /tmp/marie

PyTorch, NumPy and einops are needed; simulators, loggers and plots that it imports are replaced by empty modules.
Weights are not stored: both sides fill the tensors of the authors' names, in order, by :func:`fill`.
"""

from __future__ import annotations

import argparse
import ast
import json
import sys
from pathlib import Path
from typing import Any
from unittest.mock import MagicMock

import torch
from torch import Tensor

UNUSED = ("ipdb", "wandb", "gym", "torchvision", "environments", "matplotlib", "matplotlib.pyplot")
UNUSED += ("matplotlib.colors", "tqdm", "PIL")
AGENTS, OBS_TOKENS, VOCABULARY, ACTIONS, BINS, STEPS = 3, 3, 6, 2, 5, 4
SIZES = {"dim": 8, "layers": 2, "heads": 2, "perceiver_heads": 2, "perceiver_head_dim": 4, "perceiver_depth": 1}
REWARD_BINS = 8


def fill(number: int, shape: list[int]) -> Tensor:
    """Values of the ``number``-th tensor of a state dict."""
    count = torch.Size(shape).numel()
    return (0.4 * torch.sin(7.0 * number + 1.3 * torch.arange(count, dtype=torch.float64))).float().reshape(shape)


def network() -> dict[str, Any]:
    """Losses, predictions and features of the world model on a window with an episode's end inside."""
    from agent.models.transformer import PerceiverConfig, TransformerConfig
    from agent.models.world_model import MAWorldModel

    block = OBS_TOKENS + ACTIONS + 1
    transformer = TransformerConfig(
        tokens_per_block=block,
        max_blocks=STEPS,
        attention="causal",
        num_layers=SIZES["layers"],
        num_heads=SIZES["heads"],
        embed_dim=SIZES["dim"],
        embed_pdrop=0.0,
        resid_pdrop=0.0,
        attn_pdrop=0.0,
    )
    perceiver = PerceiverConfig(
        dim=SIZES["dim"],
        latent_dim=SIZES["dim"],
        num_latents=AGENTS,
        depth=SIZES["perceiver_depth"],
        cross_heads=SIZES["perceiver_heads"],
        cross_dim_head=SIZES["perceiver_head_dim"],
        latent_heads=SIZES["perceiver_heads"],
        latent_dim_head=SIZES["perceiver_head_dim"],
        attn_dropout=0.0,
        ff_dropout=0.0,
    )
    model = MAWorldModel(
        obs_vocab_size=VOCABULARY,
        act_vocab_size=BINS,
        num_action_tokens=ACTIONS,
        num_agents=AGENTS,
        config=transformer,
        perattn_config=perceiver,
        action_dim=ACTIONS,
        action_bins=BINS,
        action_low=-1.0,
        action_high=1.0,
        use_ce_for_reward=True,
        rewards_prediction_config={"loss_type": "hlgauss", "min_v": -3.0, "max_v": 3.0, "bins": REWARD_BINS},
    ).eval()
    names = {name: list(value.shape) for name, value in model.named_parameters()}
    with torch.no_grad():
        for number, value in enumerate(model.parameters()):
            value.copy_(fill(number, list(value.shape)))
    torch.manual_seed(0)
    tokens = torch.randint(VOCABULARY, (2, STEPS, AGENTS, OBS_TOKENS))
    action = 1.5 * torch.randn(2, STEPS, AGENTS, ACTIONS)
    reward = 3 * torch.randn(2, STEPS)
    ends = torch.zeros(2, STEPS, dtype=torch.bool)
    ends[1, 1] = True

    def everyone(values: Tensor) -> Tensor:
        return values[..., None, None].expand(-1, -1, AGENTS, -1).float()

    tokenizer = MagicMock()
    tokenizer.encode.return_value = (None, tokens)
    captured = {}
    model.register_forward_hook(lambda _, __, out: captured.update(out=out))
    batch = {"observation": torch.zeros(1), "action": action, "reward": everyone(reward), "done": everyone(ends)}
    _, losses = model.compute_loss(batch, tokenizer, attention_mask=masks(ends, AGENTS, block))
    out = captured["out"]
    return {
        "shapes": names,
        "tokens": tokens,
        "action": action,
        "reward": reward,
        "ends": ends,
        "features": out.output_sequence,  # (B * N, L T, D)
        "losses": {name.partition("/")[2]: value for name, value in losses.items()},
        "rewards": model.reward_loss.transform_from_probs(out.pred_rewards.softmax(-1)),  # symlog, (B * N, L)
    }


def method(file: Path, name: str, scope: dict[str, Any]) -> Any:
    """A method of a file that cannot be imported, as a function."""
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.FunctionDef) and node.name == name:
            exec(compile(ast.Module([node], []), str(file), "exec"), scope)
            return scope[name]
    raise SystemExit(f"{file} has no {name}")


def masks(ends: Tensor, agents: int, block: int) -> Tensor:
    """Attention masks (B * N, L T, L T) of the buffer."""
    generate = method(ROOT / "agent/memory/DreamerMemory.py", "generate_attn_mask", {"torch": torch})
    found: Tensor = generate(None, ends[:, :, None, None].expand(-1, -1, agents, -1), block)
    return found


def returns() -> dict[str, Any]:
    """Lambda-returns with a value per agent, time first."""
    from agent.optim.utils import compute_return

    torch.manual_seed(1)
    reward, value, discount = torch.randn(6, 4, 3), torch.randn(7, 4, 3), torch.rand(6, 4, 3)
    discount[2, 1] = 0
    found = compute_return(*(x[..., None] for x in (reward, value[:-1], discount, value[-1])), 0.95, 0.99, False, None)
    return {"reward": reward, "value": value, "discount": discount, "returns": found[..., 0]}


def histograms() -> dict[str, Any]:
    """HL-Gauss at the published settings."""
    from agent.models.reward_utils import HLGaussLoss

    loss = HLGaussLoss(-3.0, 3.0, 128, 0.75 * 6 / 128)
    torch.manual_seed(2)
    target, logits = torch.tensor([-2.8, -0.4, 0.0, 0.013, 1.7, 2.99]), torch.randn(6, 128)
    probabilities = loss.transform_to_probs(target)
    return {
        "target": target,
        "logits": logits,
        "peak": probabilities.amax(-1),
        "decoded": loss.transform_from_probs(probabilities),
        "mean": loss.transform_from_probs(logits.softmax(-1)),
        "loss": loss(logits, target),
    }


def codebook() -> dict[str, Any]:
    """Three updates of a codebook from zero counts, some entries unused."""
    from agent.models.vector_quantize_pytorch import VectorQuantize

    torch.manual_seed(3)
    quantizer = VectorQuantize(dim=3, codebook_size=7, decay=0.8, commitment_weight=10.0)
    start, batches, steps = quantizer.codebook.clone(), 0.02 * torch.randn(3, 5, 2, 3), []
    for batch in batches:
        quantized, index, commitment = quantizer(batch)
        steps.append(
            {
                "quantized": quantized.detach(),
                "index": index,
                "commitment": commitment.detach().sum(),
                "codebook": quantizer.codebook.clone(),
            }
        )
    return {"start": start, "batches": batches, "steps": steps}


def bins() -> dict[str, Any]:
    """Bins of continuous actions."""
    from utils import action_split_into_bins

    torch.manual_seed(4)
    action = torch.cat([torch.tensor([-1.0, 0.0, 1.0]), 2 * torch.rand(40) - 1])
    return {"action": action, "bins": action_split_into_bins(action, 256, -1.0, 1.0)}


def plain(value: Any) -> Any:
    """Tensors as lists, floats with the digits of float32."""
    if isinstance(value, Tensor):
        return plain(value.tolist())
    if isinstance(value, dict):
        return {name: plain(inner) for name, inner in value.items()}
    if isinstance(value, list):
        return [plain(inner) for inner in value]
    return float(f"{value:.8g}") if isinstance(value, float) else value


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--marie", required=True, type=Path)
    ROOT = parser.parse_args().marie
    sys.path.insert(0, str(ROOT))
    for unused in UNUSED:
        sys.modules[unused] = MagicMock()
    torch.set_num_threads(1)
    results = {
        "sizes": SIZES,
        "network": network(),
        "returns": returns(),
        "histograms": histograms(),
        "codebook": codebook(),
        "bins": bins(),
    }
    out = Path(__file__).with_name("marie.json")
    out.write_text(json.dumps(plain(results)) + "\n", encoding="utf-8")
