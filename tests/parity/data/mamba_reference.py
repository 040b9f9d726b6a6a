"""Write mamba.json: results of MAMBA's authors' code on given inputs, for ``tests/parity/test_mamba.py``.

Nothing of that code (https://github.com/jbr-ai-labs/mamba, MIT licence) is part of this library:

    git clone https://github.com/jbr-ai-labs/mamba /tmp/mamba
    git -C /tmp/mamba checkout 2c97258f71bf1c421c40ce14fd2f7cc3fe7fe19f
    OMP_NUM_THREADS=1 .venv/bin/python tests/parity/data/mamba_reference.py --mamba /tmp/mamba

Only PyTorch and NumPy are needed. Weights have the library's names.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn

AGENTS, ACTION, HIDDEN, DETER, CATEGORICALS, CLASSES, OBS, ROWS = 3, 2, 8, 6, 2, 3, 4, 5
LAYER = {
    "self_attn.in_proj_": "query_key_value.",
    "self_attn.out_proj.": "out.",
    "linear1.": "lift.",
    "linear2.": "lower.",
    "norm1.": "norms.0.",
    "norm2.": "norms.1.",
}


def plain(value: Any) -> Any:
    """Numbers with the fewest digits that restore float32."""
    if isinstance(value, Tensor):
        return json.loads(
            json.dumps(value.detach().double().tolist()), parse_float=lambda text: float(f"{float(text):.9g}")
        )
    return {name: plain(one) for name, one in value.items()}


def renamed(module: nn.Module, names: dict[str, str]) -> dict[str, Tensor]:
    """Its weights by the library's names; weights without one are left out."""
    found = {}
    for name, weight in module.named_parameters():
        for theirs, ours in names.items():
            if name.startswith(theirs):
                rest = name[len(theirs) :]
                for inner, outer in LAYER.items():
                    rest = rest.replace(inner, outer)
                found[ours + rest] = weight.detach().clone()
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--mamba", type=Path, required=True)
    source = parser.parse_args().mamba
    sys.path.insert(0, str(source))
    for package in ("configs", "configs.dreamer"):  # whose own __init__ import simulators
        sys.modules[package] = ModuleType(package)
        sys.modules[package].__path__ = [str(source / package.replace(".", "/"))]
    from agent.optim import utils
    from configs.dreamer.DreamerAgentConfig import RSSMState
    from networks.dreamer.critic import AugmentedCritic
    from networks.dreamer.rnns import RSSMRepresentation, RSSMTransition

    torch.manual_seed(0)
    config = SimpleNamespace(
        ACTION_SIZE=ACTION,
        STOCHASTIC=CATEGORICALS * CLASSES,
        DETERMINISTIC=DETER,
        N_CATEGORICALS=CATEGORICALS,
        N_CLASSES=CLASSES,
        EMBED=HIDDEN,
        HIDDEN=HIDDEN,
    )
    transition = RSSMTransition(config, HIDDEN).eval()
    representation = RSSMRepresentation(config, transition).eval()
    stochastic = torch.eye(CLASSES)[torch.randint(CLASSES, (ROWS, AGENTS, CATEGORICALS))].flatten(-2)
    before = RSSMState(stoch=stochastic, deter=torch.randn(ROWS, AGENTS, DETER), logits=torch.zeros_like(stochastic))
    action, embedding = torch.randn(ROWS, AGENTS, ACTION), torch.randn(ROWS, AGENTS, HIDDEN)
    prior, posterior = representation(embedding, action, before)
    names = {
        "_transition_model._rnn_input_model.0.": "transition.embed.",
        "_transition_model._attention_stack.encoder.layers.": "transition.attention.layers.",
        "_transition_model._cell.": "transition.memory.",
        "_transition_model._stochastic_prior_model.dists.": "prior.",
        "_stochastic_posterior_model.dists.": "posterior.",
    }
    weights = {name.replace("_l0", ""): weight for name, weight in renamed(representation, names).items()}
    inputs = {"action": action, "stochastic": stochastic, "deterministic": before.deter, "embedding": embedding}
    results = {"deterministic": prior.deter, "prior": prior.logits, "posterior": posterior.logits}
    content: dict[str, Any] = {"transition": {"weights": weights, "inputs": inputs, "results": results}}

    critic, features = AugmentedCritic(OBS, HIDDEN).eval(), torch.randn(ROWS, AGENTS, OBS)
    names = {"embed.": "embed.", "_attention_stack.encoder.layers.": "attention.layers.", "feedforward_model.": "head."}
    content["critic"] = {
        "weights": renamed(critic, names),
        "inputs": {"features": features},
        "results": {"value": critic(features)[..., 0]},
    }

    logits = [torch.randn(ROWS, AGENTS, CATEGORICALS * CLASSES, requires_grad=True) for _ in range(2)]
    states = [RSSMState(stoch=one, deter=before.deter, logits=one) for one in logits]
    divergence = utils.state_divergence_loss(*states, config)
    divergence.backward()
    content["divergence"] = {
        "inputs": {"prior": logits[0], "posterior": logits[1]},
        "results": {"loss": divergence, "prior_gradient": logits[0].grad, "posterior_gradient": logits[1].grad},
    }

    reward, value = torch.randn(7, ROWS, 1, 1), torch.randn(8, ROWS, AGENTS, 1)
    discount = torch.rand(7, ROWS, AGENTS, 1)
    content["returns"] = {
        "inputs": {"reward": reward, "value": value, "discount": discount},
        "results": {"returns": utils.compute_return(reward, value[:-1], discount, value[-1], 0.95, 0.99)},
    }

    x, predicted, fake = torch.randn(ROWS, AGENTS, OBS), torch.randn(ROWS, AGENTS, OBS), torch.rand(ROWS, AGENTS, 1)
    loss, _ = utils.rec_loss(lambda _: (predicted, None), None, x, (fake > 0.3).float())
    content["reconstruction"] = {
        "inputs": {"obs": x, "predicted": predicted, "real": (fake > 0.3).float()[..., 0]},
        "results": {"loss": loss},
    }

    hidden, chosen = torch.randn(ROWS, AGENTS, HIDDEN), torch.eye(3)[torch.randint(3, (ROWS, AGENTS))]
    model = SimpleNamespace(q_features=nn.Identity(), q_action=nn.Linear(HIDDEN, 3))
    known = (torch.rand(ROWS, AGENTS) > 0.3).float()
    content["information"] = {
        "inputs": {"logits": model.q_action(hidden.relu()), "action": chosen, "known": known},
        "results": {"loss": utils.info_loss(hidden, model, chosen, known.reshape(-1))},
    }

    new, old, advantage = torch.randn(ROWS, AGENTS, 3), torch.randn(ROWS, AGENTS, 3), torch.randn(ROWS, AGENTS, 1)
    index = chosen.argmax(-1, keepdim=True)
    rho = (new.log_softmax(-1).gather(2, index) - old.log_softmax(-1).gather(2, index)).exp()
    surrogate, negative_entropy = utils.calculate_ppo_loss(new, rho, advantage)
    content["policy"] = {
        "inputs": {"logits": new, "old_logits": old, "action": chosen, "advantage": advantage[..., 0]},
        "results": {"loss": (surrogate + negative_entropy.unsqueeze(-1) * 0.001).mean()},
    }

    commit = subprocess.run(["git", "-C", source, "rev-parse", "HEAD"], capture_output=True, text=True).stdout.strip()
    origin = {"repository": "https://github.com/jbr-ai-labs/mamba", "commit": commit, "torch": torch.__version__}
    target = Path(__file__).with_name("mamba.json")
    target.write_text(json.dumps({"origin": origin} | plain(content)) + "\n")


if __name__ == "__main__":
    main()
