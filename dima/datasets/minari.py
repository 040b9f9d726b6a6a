"""Exchange with Minari (the extra ``dima-marl[minari]``), in two forms.

``agents``: an observation is a dictionary of every agent's own, an action likewise, in the task's spaces; the state and
the action masks stand in the infos. Taken over again, nothing is lost. Any task.

``joint``: an observation is the state, an action the joint action as one vector, as a single agent would have it. For
multi-agent MuJoCo these are the observations and actions of Gymnasium's own task, so that data of HalfCheetah, Ant,
Walker2d, ... fit both ways. Taking over needs agents that see the whole state (``full+id``): what else they would see
had to be asked of a simulator. Continuous actions only.

Rewards are the team's. Minari keeps datasets by name under its own root (the variable ``MINARI_DATASETS_PATH``).
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

from dima.data import Episode
from dima.datasets.format import Header
from dima.datasets.minari_forms import Agents, Form, Joint
from dima.datasets.reader import Dataset
from dima.datasets.writer import DatasetWriter
from dima.envs import agreed_task, make_env
from dima.envs.base import JointEnv
from dima.errors import ConfigError, DatasetError, EnvError
from dima.recording.config import ImportConfig
from dima.runtime.provenance import protocol

CHUNK_STEPS = 10_000  # environment steps of a chunk of what is taken over, at least
FORMS: dict[str, type[Form]] = {"agents": Agents, "joint": Joint}


def export_minari(dataset: Dataset, name: str, form: str = "agents", *, task: str | None = None) -> Path:
    """Hand a dataset to Minari.

    Args:
        dataset: what to hand over.
        name: what Minari is to call it, such as ``mine/halfcheetah-2x3/mixed-v0``.
        form: ``agents`` or ``joint``, see the module.
        task: the dataset's task, repeated: consent to import it, where it is ``package.module:factory``.

    Returns:
        Where Minari keeps it.

    Raises:
        UserError: Minari is not installed, the name does not fit or is taken, the form does not fit the task, or that
            is code of somebody's own that the user has not agreed to.
    """
    minari = _minari()
    env = make_env(agreed_task(dataset.task, dataset.header.env, task, dataset.path), dataset.env)
    dataset.require(dataset.task, dataset.env, env.spec)
    told = FORMS[form](env)
    recorded = list(dataset.recorded())
    buffer = minari.data_collector.EpisodeBuffer
    episodes = [buffer(seed=one.seed, **told.tell(one.episode)) for one in recorded]
    env.close()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of fields that only a published dataset needs, such as its author
            made = minari.create_dataset_from_buffers(
                name,
                episodes,
                observation_space=told.observation_space,
                action_space=told.action_space,
                description=f"{dataset.task}, form {form}, SHA-256 of the dima dataset {dataset.seal}",
                data_format="hdf5",
                jpeg_encoding=False,
            )
        if told.simulator is not None:
            made.storage.update_metadata({"env_spec": told.simulator.to_json()})
    except (ValueError, TypeError, OSError) as error:
        why = " ".join(str(error).split())
        raise ConfigError(
            f"Minari cannot take {name!r} ({why}): a name is new and ends in a version, such as mine/cheetah-v0"
        ) from None
    return Path(made.storage.data_path).parent


def import_minari(config: ImportConfig, *, overwrite: bool = False) -> Dataset:
    """Take over a dataset that Minari keeps on this machine; its form is recognised.

    Args:
        config: which, and of which task its episodes are.
        overwrite: replace an earlier dataset in the same folder.

    Raises:
        UserError: Minari is not installed or has no such dataset, it does not fit the task, or the folder is taken.
    """
    theirs = _open(config.minari)
    env = make_env(config.task, config.env)
    form = _form_of(config.minari, theirs, env)
    header = Header(
        task=config.task,
        env=config.env.to_dict(),
        spec=env.spec,
        sources=[{"policy": "minari", "name": config.minari, "form": form.name}],
        request={"held_out": config.held_out, "seed": config.seed},
    )
    with DatasetWriter.open(config.folder, header, protocol("cpu"), overwrite=overwrite) as writer:
        waiting: list[Episode] = []
        for episode in _heard(config.minari, theirs, form, writer.episodes):
            waiting.append(episode)
            if sum(map(len, waiting)) >= CHUNK_STEPS:
                writer.add(waiting)
                waiting = []
        if waiting:
            writer.add(waiting)
        env.close()
        return writer.finish(config.held_out, config.seed)


def _minari() -> Any:
    try:
        import_module("h5py")  # of the format that most of its datasets have; Minari itself asks for it late
        return import_module("minari")
    except ImportError as error:
        raise ConfigError(f"this needs Minari ({error}): pip install 'dima-marl[minari]'") from None


def _open(name: str) -> Any:
    """A dataset by Minari's name, or by its folder."""
    minari = _minari()
    if not name:
        raise ConfigError("minari is not given: --minari names a dataset, such as mujoco/halfcheetah/expert-v0")
    folders = [Path(name), Path(name) / "data"]
    folder = next((folder for folder in folders if (folder / "metadata.json").is_file()), None)
    try:
        return minari.load_dataset(name) if folder is None else minari.MinariDataset(folder)
    except FileNotFoundError:
        raise DatasetError(
            f"Minari keeps no dataset {name!r} on this machine: `minari list local` lists them, "
            f"`minari download {name}` fetches it"
        ) from None
    except (ValueError, TypeError, KeyError, OSError) as error:
        raise DatasetError(f"Minari cannot open {name!r}: {' '.join(str(error).split())}") from None


def _form_of(name: str, theirs: Any, env: JointEnv) -> Form:
    """The form that a dataset of this task has.

    Raises:
        DatasetError: it is of another task, or what it holds cannot be told.
    """
    forms = [Agents(env)] if env.spec.discrete else [Agents(env), Joint(env)]
    fitting = [form for form in forms if form.fits(theirs.observation_space)]
    if not fitting:
        seen = " ".join(str(theirs.observation_space).split())
        raise DatasetError(
            f"{name} observes {seen if len(seen) < 100 else seen[:97] + '...'}, neither the state of {env.name} "
            f"({env.spec.state_dim} features) nor its agents' spaces: choose another task, or settings under --env"
        )
    (form,) = fitting
    if form.action_space.shape != theirs.action_space.shape:
        raise DatasetError(f"{name} acts in {theirs.action_space}, the team of {env.name} in {form.action_space}")
    if theirs.env_spec is not None and form.simulator is not None and theirs.env_spec.id != form.simulator.id:
        raise DatasetError(f"{name} is of {theirs.env_spec.id}, but {env.name} is played in {form.simulator.id}")
    return form


def _heard(name: str, theirs: Any, form: Form, skip: int) -> Iterator[Episode]:
    """The episodes in our terms, but for the first few, which were heard before."""
    for number in range(skip, len(theirs)):
        try:
            episode = form.hear(vars(theirs[number]))
        except (OSError, KeyError, IndexError, ValueError) as error:
            why = " ".join(str(error).split())
            raise DatasetError(
                f"{name} is damaged or of another form: its episode {number} cannot be read: {why}"
            ) from None
        except (DatasetError, EnvError) as error:
            raise DatasetError(f"{name}: episode {number}: {error}") from None
        if not (episode.reward.isfinite().all() and episode.state.isfinite().all() and episode.action.isfinite().all()):
            raise DatasetError(
                f"{name}: episode {number} holds values that are not finite: filter it with Minari first"
            )
        yield episode
