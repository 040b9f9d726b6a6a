"""Import from and export to Minari (the extra ``dima-marl[minari]``), in two forms.

``agents``: observations and actions are dictionaries over agents, in the task's spaces; the state and the action masks
are stored in the infos. Lossless, for every task.

``joint``: the observation is the state, the action the joint action as one vector, as for a single agent. For
multi-agent MuJoCo these are the observations and actions of Gymnasium's task, so that data of HalfCheetah, Ant,
Walker2d, ... can be used in both directions. Importing requires agents that observe the whole state (``full+id``):
other observations would have to come from a simulator. Continuous actions only.

Rewards are the team's. Minari stores datasets by name under its own root (the variable ``MINARI_DATASETS_PATH``).
"""

from __future__ import annotations

import shutil
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Annotated, Any

from dima.config import Config, Range, user_path
from dima.data import Episode
from dima.datasets.format import Header, HeldOutShare
from dima.datasets.minari_forms import Agents, Form, Joint
from dima.datasets.reader import Dataset
from dima.datasets.writer import DatasetWriter
from dima.envs import agreed_task, make_env, suite_config
from dima.envs.base import JointEnv
from dima.errors import ConfigError, DatasetError, EnvError, one_line
from dima.runtime.provenance import protocol

CHUNK_STEPS = 10_000  # environment steps of an imported chunk, at least
_FILTER = "leave it out with MinariDataset.filter_episodes"
FORMS: dict[str, type[Form]] = {"agents": Agents, "joint": Joint}


@dataclass(frozen=True, kw_only=True)
class ImportConfig(Config):
    """Settings of an import from Minari."""

    task: str  # environment that the episodes belong to (see `dima tasks`)
    minari: str = ""  # name of the Minari dataset, such as mujoco/halfcheetah/expert-v0, or its folder
    held_out: HeldOutShare = 0.2  # share of the episodes held out from training
    seed: Annotated[int, Range(0, 2**63 - 1)] = 0  # seed of the split
    out: str | None = None  # dataset folder; default datasets/<Minari's name>
    env: Config  # environment settings; fields depend on the task's suite

    @property
    def folder(self) -> Path:
        """Path of the dataset folder."""
        return user_path(self.out or f"datasets/{self.minari}")


def import_config(task: str) -> ImportConfig:
    """Default import settings for a task.

    Raises:
        ConfigError: there is no such suite.
    """
    return ImportConfig(task=task, env=suite_config(task)())


def export_minari(dataset: Dataset, name: str, form: str = "agents", *, task: str | None = None) -> Path:
    """Export a dataset to Minari.

    Args:
        dataset: the dataset.
        name: its new name in Minari, such as ``mine/halfcheetah-2x3/mixed-v0``.
        form: ``agents`` or ``joint``, see the module.
        task: the dataset's task, repeated: consent to import it if it is ``package.module:factory``.

    Returns:
        Its folder in Minari's storage.

    Raises:
        UserError: Minari is not installed, the name is invalid or in use, the form does not support the task, or the
            task is third-party code that the user has not consented to.
    """
    minari = _minari()
    env = make_env(agreed_task(dataset.task, dataset.header.env, task, dataset.path), dataset.env)
    dataset.require(dataset.task, dataset.env, env.spec)
    converter = FORMS[form](env)
    recorded = list(dataset.recorded())
    buffer = minari.data_collector.EpisodeBuffer
    episodes = [buffer(seed=one.seed, **converter.to_minari(one.episode)) for one in recorded]
    env.close()
    try:
        with _removed_on_failure(name), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about metadata that only published datasets need, such as the author
            made = minari.create_dataset_from_buffers(
                name,
                episodes,
                observation_space=converter.observation_space,
                action_space=converter.action_space,
                description=f"{dataset.task}, form {form}, SHA-256 of the dima dataset {dataset.digest}",
                data_format="hdf5",
                jpeg_encoding=False,
            )
            if converter.simulator is not None:
                made.storage.update_metadata({"env_spec": converter.simulator.to_json()})
    except (ValueError, TypeError, OSError) as error:
        why = " ".join(str(error).split())
        raise ConfigError(
            f"Minari cannot store {name!r} ({why}): give a new name that ends in a version, such as mine/cheetah-v0"
        ) from None
    return Path(made.storage.data_path).parent


def import_minari(config: ImportConfig, *, overwrite: bool = False) -> Dataset:
    """Import a local Minari dataset; its form is detected.

    An interrupted import is continued.

    Args:
        config: the dataset, and the task that its episodes belong to.
        overwrite: replace an earlier dataset in the same folder.

    Raises:
        UserError: Minari is not installed or has no such dataset, it does not match the task, or the folder is in use.
    """
    theirs = _open(config.minari)
    env = make_env(config.task, config.env)
    form = _detect_form(config.minari, theirs, env)
    header = Header(
        task=config.task,
        env=config.env.to_dict(),
        spec=env.spec,
        sources=[{"policy": "minari", "name": config.minari, "form": form.name}],
        request={"held_out": config.held_out, "seed": config.seed},
    )
    with DatasetWriter.open(config.folder, header, protocol("cpu"), overwrite=overwrite) as writer:
        chunk: list[Episode] = []
        for episode in _episodes(config.minari, theirs, form, writer.episodes):
            chunk.append(episode)
            if sum(map(len, chunk)) >= CHUNK_STEPS:
                writer.add(chunk)
                chunk = []
        if chunk:
            writer.add(chunk)
        env.close()
        return writer.finish(config.held_out, config.seed)


@contextmanager
def _removed_on_failure(name: str) -> Iterator[None]:
    """Remove the folders that Minari makes in the block if it fails: an unfinished one breaks its list of datasets.

    Raises:
        ValueError: Minari does not allow the name.
    """
    import_module("minari.dataset.minari_dataset").parse_dataset_id(name)
    path: Path = import_module("minari.storage").get_dataset_path(name)
    new = next((place for place in (*reversed(path.parents), path) if not place.exists()), None)
    try:
        yield
    except BaseException:
        if new is not None:
            shutil.rmtree(new, ignore_errors=True)
        raise


def _minari() -> Any:
    try:
        import_module("h5py")  # needed for most datasets, but Minari imports it late
        return import_module("minari")
    except ImportError as error:
        raise ConfigError(f"this needs Minari ({error}): pip install 'dima-marl[minari]'") from None


def _open(name: str) -> Any:
    """Open a Minari dataset by name or folder."""
    minari = _minari()
    if not name:
        raise ConfigError("no Minari dataset was given: --minari names one, such as mujoco/halfcheetah/expert-v0")
    folders = [user_path(name), user_path(name) / "data"]
    folder = next((folder for folder in folders if (folder / "metadata.json").is_file()), None)
    try:
        return minari.load_dataset(name) if folder is None else minari.MinariDataset(folder)
    except FileNotFoundError:
        raise DatasetError(
            f"Minari has no dataset {name!r} on this machine: `minari list local` lists them, "
            f"`minari download {name}` fetches it"
        ) from None
    except (ValueError, TypeError, KeyError, OSError) as error:
        raise DatasetError(f"Minari cannot open {name!r}: {' '.join(str(error).split())}") from None


def _detect_form(name: str, theirs: Any, env: JointEnv) -> Form:
    """Detect the form of a Minari dataset from its spaces.

    Raises:
        DatasetError: its spaces or its simulator are not those of the task.
    """
    forms = [Agents(env)] if env.spec.discrete else [Agents(env), Joint(env)]
    matching = [form for form in forms if form.matches(theirs.observation_space)]
    if not matching:
        space = " ".join(str(theirs.observation_space).split())
        raise DatasetError(
            f"{name} has observations in {space if len(space) < 100 else space[:97] + '...'}, neither the state of "
            f"{env.name} ({env.spec.state_dim} features) nor its agents' spaces: choose another task, or settings "
            "under --env"
        )
    (form,) = matching
    if form.action_space.shape != theirs.action_space.shape:
        raise DatasetError(f"{name} has actions in {theirs.action_space}, {env.name} in {form.action_space}")
    if theirs.env_spec is not None and form.simulator is not None and theirs.env_spec.id != form.simulator.id:
        raise DatasetError(f"{name} was recorded in {theirs.env_spec.id}, not in {form.simulator.id} as {env.name}")
    return form


def _episodes(name: str, theirs: Any, form: Form, skip: int) -> Iterator[Episode]:
    """Convert the episodes after the first ``skip``, which are imported already."""
    for number in range(skip, len(theirs)):
        try:
            episode = form.from_minari(vars(theirs[number]))
        except (DatasetError, EnvError) as error:
            raise DatasetError(f"{name}: episode {number}: {error}; mend it, or {_FILTER}") from None
        except Exception as error:  # of a file of somebody else
            raise DatasetError(
                f"{name} is damaged or has another form: its episode {number} cannot be read: {one_line(error)}; "
                f"mend it, or {_FILTER}"
            ) from None
        if not (episode.reward.isfinite().all() and episode.state.isfinite().all() and episode.action.isfinite().all()):
            raise DatasetError(f"{name}: episode {number} has values that are not finite: {_FILTER}")
        yield episode
