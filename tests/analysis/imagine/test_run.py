"""`dima imagine` and `dima evaluate --video`, from a trained run to files; and what cannot be shown."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import imageio_ffmpeg
import numpy as np
import pytest
from PIL import Image

import dima
from dima.analysis.imagine.run import imagine_agent
from dima.cli import main
from dima.envs.render import headless
from dima.errors import EnvError
from dima.runtime.provenance import package_version
from dima.storage.run_folder import RunFolder
from dima.training.online import train
from dima.training.run_config import build_config

pytestmark = pytest.mark.usefixtures("one_thread")

NAMES = {"imagination.json", "imagination.html", "imagination.mp4", "strip.png"}


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """Folders of short runs, each trained once: by task and algorithm."""
    done: dict[tuple, Path] = {}

    def run(task: str, algorithm: str = "dima", **overrides) -> Path:
        key = (task, algorithm, *overrides)
        if key not in done:
            fixed = {"device": "cpu", "threads": 1, "tensorboard": False, "steps": 60, "evaluation_episodes": 1}
            fixed |= {"run": str(tmp_path_factory.mktemp("runs") / "run")}
            if algorithm == "dima":
                fixed |= {"learner": {"learn_after": 60}}
            done[key] = train(build_config(task, algorithm, "debug", fixed | overrides)).folder
        return done[key]

    return run


@pytest.fixture
def command(capsys):
    """Runs a command; gives its exit status, answer and complaints."""

    def run(*args) -> tuple[int, str, str]:
        status = main([str(arg) for arg in args])
        out, err = capsys.readouterr()
        return status, out, err

    return run


def frames_of(path: Path) -> int:
    reading = imageio_ffmpeg.read_frames(str(path))
    next(reading)
    return sum(1 for _ in reading)


# -- imagine ----------------------------------------------------------------------------------------------------------


def test_the_command_writes_film_strip_page_and_numbers(trained, command) -> None:
    run = trained("mpe/simple_spread")
    status, out, err = command("imagine", run, "--quiet", "--width", 80, "--start", 2, "--horizon", 4, 6)
    folder = run / "imagination"
    assert (status, err) == (0, "")
    assert command("imagine", run, "--quiet", "--width", 80, "--horizon", 4, "--act", "policy")[0] == 0
    assert {path.name for path in (run / "imagination-policy").iterdir()} == NAMES
    lines = out.splitlines()
    verdicts, numbers = lines[: lines.index("")], lines[lines.index("") + 1 :]
    assert verdicts and all(line[0] in "✓⚠" for line in verdicts)
    assert [line[0] for line in verdicts] == sorted((line[0] for line in verdicts), key="⚠✓".index)
    assert numbers[0].startswith("4 steps: state error ")
    assert out.splitlines()[-1] == f"page: {folder / 'imagination.html'}"
    assert {path.name for path in folder.iterdir()} == NAMES
    assert frames_of(folder / "imagination.mp4") == 7
    written = json.loads((folder / "imagination.json").read_text())
    assert (written["start"], written["actions"], written["no_pictures"]) == (2, "recorded", "")
    assert [found["steps"] for found in written["horizons"]] == [4, 6]
    assert written["run"]["task"] == "mpe/simple_spread" and written["run"]["steps"] == 75
    assert len(written["steps"]["state_error"]) == 7 and written["steps"]["state_error"][0] == 0
    assert set(written["steps"]["obs_error"]) == {"agent_0", "agent_1", "agent_2"}
    html = (folder / "imagination.html").read_text()
    names = ("film", "strip-4", "strip-6", "error-state", "error-state-summed", "error-observations", "reward")
    for name in (*names, "error-observations-summed", "sum-of-rewards"):
        assert f'<figure id="{name}">' in html, name


@pytest.mark.parametrize("act", ["recorded", "policy"])
def test_the_command_writes_the_library_s_numbers(trained, command, tmp_path: Path, act: str) -> None:
    run = trained("mpe/simple_spread")
    args = ("--horizon", 5, "--start", 1, "--seed", 7, "--act", act, "--width", 64)
    status, out, _ = command("imagine", run, "--out", tmp_path / "out", "--json", "--quiet", *args)
    found = imagine_agent(dima.load(run, "cpu"), [5], act, seed=7, start=1, width=64)
    assert status == 0
    told = json.loads(out)
    assert told.pop("page") == str(tmp_path / "out" / "imagination.html")
    assert told == json.loads(json.dumps(found.to_dict()))
    assert {path.name for path in (tmp_path / "out").iterdir()} == NAMES
    real, imagined = found.pictures[0]
    assert real.shape == imagined.shape == (48, 64, 3)
    replay = dima.load(run, "cpu").experience()
    std = replay.store["state"][: replay.newest].double().std(0, correction=0).numpy()
    error = np.abs(found.comparison.imagined.state - found.comparison.real.state) / np.where(std > 0, std, 1)
    np.testing.assert_allclose(found.state_error, error.mean(1), rtol=1e-5)
    assert found.horizons[0].state_error_sum == pytest.approx(error.mean(1).sum(), rel=1e-5)
    assert found.obs_error.shape == (6, 3)


def test_padding_does_not_count_as_an_error(trained) -> None:
    agent = dima.load(trained("mpe/simple_speaker_listener"), "cpu")
    found = imagine_agent(agent, [3], start=0, width=64)
    error = np.abs(found.comparison.imagined.obs - found.comparison.real.obs) / found.comparison.obs_scale
    assert found.spec.obs_sizes == (3, 11)
    np.testing.assert_allclose(found.obs_error[:, 0], error[:, 0, :3].mean(1))
    np.testing.assert_allclose(found.obs_error[:, 1], error[:, 1].mean(1))


def test_a_robot_is_shown_from_end_to_end(trained, command) -> None:
    try:
        headless.backend()
    except EnvError as error:
        pytest.skip(str(error))
    run = trained("mamujoco/halfcheetah-2x3", env={"episode_limit": 30})
    status, _, err = command("imagine", run, "--quiet", "--width", 64, "--horizon", 3)
    assert (status, err) == (0, "")
    assert frames_of(run / "imagination" / "imagination.mp4") == 4
    written = json.loads((run / "imagination" / "imagination.json").read_text())
    assert list(written["steps"]["measures"]) == ["x"]
    assert set(written["steps"]["state_error_by_kind"]) > {"joint positions", "joint velocities"}
    html = (run / "imagination" / "imagination.html").read_text()
    assert '<figure id="error-kinds">' in html and "x, imagined" in html
    assert "Left real, right imagined; 0.5x real time, 10 steps/s." in html and "<video autoplay " in html
    found = imagine_agent(dima.load(run, "cpu"), [3], width=64)
    assert np.array_equal(*found.pictures[0])
    assert not np.array_equal(*found.pictures[3])


def test_without_a_scene_the_reason_is_shown_and_the_rest_is_made(trained, command) -> None:
    run = trained("toy/walk")
    folder = run / "imagination"
    folder.mkdir()
    (folder / "strip.png").write_bytes(b"of an earlier imagination")
    status, _, err = command("imagine", run, "--quiet", "--horizon", 5)
    assert status == 0
    assert err == (
        "dima: no film and no strip: toy/walk: its states cannot be drawn: "
        "give its environment a method scene(width, height); nor does it render rgb_array: no film can be made of it\n"
    )
    assert {path.name for path in folder.iterdir()} == {"imagination.json", "imagination.html"}
    html = (folder / "imagination.html").read_text()
    assert "There are no pictures" in html and '<figure id="error-state">' in html and "<video" not in html
    assert "its states cannot be drawn" in json.loads((folder / "imagination.json").read_text())["no_pictures"]


def test_without_a_renderer_the_rest_is_made(trained, command, monkeypatch, tmp_path: Path) -> None:
    run = trained("mamujoco/halfcheetah-2x3", env={"episode_limit": 30})
    monkeypatch.setenv(headless.VARIABLE, "off")
    status, _, err = command("imagine", run, "--quiet", "--horizon", 3, "--out", tmp_path / "out")
    assert status == 0
    assert err.count("\n") == 1
    assert err.startswith("dima: no film and no strip: MUJOCO_GL = 'off' draws no pictures: unset it")
    page = (tmp_path / "out" / "imagination.html").read_text()
    assert f"MuJoCo {package_version('mujoco')}" in page


def test_resuming_keeps_the_results_and_overwriting_removes_them(trained, command, tmp_path: Path) -> None:
    run = Path(shutil.copytree(trained("mpe/simple_spread"), tmp_path / "run"))
    assert command("imagine", run, "--quiet", "--width", 64, "--start", 0, "--horizon", 2)[0] == 0
    (run / "videos").mkdir()
    assert command("resume", run, "--steps", 120, "--quiet")[0] == 0
    assert (run / "imagination").is_dir() and (run / "videos").is_dir()
    RunFolder.create(run, RunFolder.open(run).config(), overwrite=True).close()
    assert not (run / "imagination").exists() and not (run / "videos").exists()


# -- evaluate --video -------------------------------------------------------------------------------------------------


def test_a_video_shows_the_first_episode_evaluated(trained, command) -> None:
    run = trained("mpe/simple_spread")
    status, out, _ = command("evaluate", run, "--episodes", 1, "--video", "--seed", 3)
    assert status == 0
    film = run / "videos" / "evaluate-seed3.mp4"
    assert out.splitlines()[-1] == f"film: {film}"
    assert frames_of(film) == 26
    status, out, _ = command("evaluate", run, "--episodes", 1, "--video", "--json")
    assert json.loads(out)["video"] == str(run / "videos" / "evaluate.mp4")


def test_its_captions_sum_up_to_the_episode_s_return(trained, monkeypatch, tmp_path: Path) -> None:
    captions = []

    def keep(title, panels, legend):
        captions.append((title, panels[0].name, panels[0].caption))
        return np.zeros((16, 16, 3), np.uint8)

    monkeypatch.setattr("dima.analysis.imagine.pictures.frame", keep)
    agent = dima.load(trained("mpe/simple_spread", "mappo"), "cpu")
    dima.film(agent, tmp_path / "film.mp4", seed=5, width=64)
    assert captions[0] == ("mpe/simple_spread", "step 0", ["start", "real time, 10 steps/s", ""])
    summed = re.search(r"sum (.*)", captions[-1][2][0])
    assert float(summed[1]) == pytest.approx(agent.evaluate(1, seed=5).mean, rel=1e-3)


@pytest.fixture
def rendering(monkeypatch):
    """Makes environments render what they are told to."""
    made = dima.make_env

    def render(picture: object) -> None:
        def make(task, config=None, *, render_mode=None):
            env = made(task, config, render_mode=render_mode)
            env.render_mode, env.render = render_mode, lambda: picture
            return env

        monkeypatch.setattr("dima.analysis.imagine.run.make_env", make)

    return render


def test_an_environment_that_renders_by_itself_is_filmed(trained, command, rendering) -> None:
    run = trained("toy/walk", "mappo")
    rendering(np.full((30, 40, 3), 77, np.uint8))
    assert command("evaluate", run, "--episodes", 1, "--video")[0] == 0
    assert frames_of(run / "videos" / "evaluate.mp4") == 31
    rendering("art")
    status, _, err = command("evaluate", run, "--episodes", 1, "--video")
    assert status == 2
    assert "toy/walk: render() with render_mode = 'rgb_array' gave str: expected a picture" in err


def test_imagination_beside_what_an_environment_renders_says_what_is_missing(
    trained, command, rendering, tmp_path
) -> None:
    run = trained("toy/walk")
    rendering(np.full((30, 40, 3), 77, np.uint8))
    status, _, err = command("imagine", run, "--quiet", "--horizon", 5, "--out", tmp_path / "out", "--width", 80)
    assert status == 0
    assert err == (
        "dima: no imagined pictures: toy/walk: its states cannot be drawn: "
        "give its environment a method scene(width, height)\n"
    )
    assert {path.name for path in (tmp_path / "out").iterdir()} == NAMES
    assert frames_of(tmp_path / "out" / "imagination.mp4") == 6
    html = (tmp_path / "out" / "imagination.html").read_text()
    assert "There are no imagined pictures." in html and "The real episode alone; 10 steps/s." in html
    rendering("art")
    assert command("imagine", run, "--quiet", "--horizon", 5, "--out", tmp_path / "out")[0] == 0
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"imagination.json", "imagination.html"}


def test_films_as_animated_pictures_when_asked(trained, command, tmp_path: Path) -> None:
    run, out = trained("mpe/simple_spread"), tmp_path / "out"
    few = ("--quiet", "--width", 80, "--start", 0, "--horizon", 3, "--out", out)
    assert command("imagine", run, *few, "--webp")[0] == 0
    with Image.open(out / "imagination.webp") as picture:
        assert (picture.format, picture.n_frames) == ("WEBP", 4)
    assert command("imagine", run, *few)[0] == 0
    assert {path.name for path in out.iterdir()} == NAMES
    assert command("evaluate", run, "--episodes", 1, "--webp", "--seed", 4)[0] == 0
    assert {path.name for path in (run / "videos").glob("evaluate-seed4.*")} == {
        "evaluate-seed4.mp4",
        "evaluate-seed4.webp",
    }


@pytest.mark.parametrize("more", [(), ("--json",)])
def test_numbers_are_not_lost_to_a_film(trained, command, more) -> None:
    status, out, err = command("evaluate", trained("toy/walk", "mappo"), "--episodes", 1, "--video", *more)
    assert status == 2
    assert ("mean" in json.loads(out)) if more else ("team return" in out)
    assert err.count("\n") == 1
    assert re.search("toy/walk: its states cannot be drawn: .*; nor does it render rgb_array", err)


def test_a_film_without_a_driver_is_one_line(trained, command, monkeypatch) -> None:
    run = trained("mamujoco/halfcheetah-2x3", env={"episode_limit": 30})
    monkeypatch.setenv(headless.VARIABLE, "off")
    status, out, err = command("evaluate", run, "--episodes", 1, "--video")
    assert status == 2
    assert "team return" in out
    assert err.startswith("dima: MUJOCO_GL = 'off' draws no pictures: unset it") and err.count("\n") == 1


# -- bad input --------------------------------------------------------------------------------------------------------


def test_every_mistake_gets_one_line(trained, command, tmp_path: Path) -> None:
    config = build_config("toy/walk", "dima", "debug", {"run": str(tmp_path / "fresh")})
    RunFolder.create(config.folder, config.to_dict()).close()
    model_free, walk = trained("toy/walk", "mappo"), trained("toy/walk")
    (tmp_path / "file").write_text("")
    for args, message in (
        (("imagine", tmp_path / "nowhere"), "does not exist"),
        (("imagine", config.folder), "holds no checkpoint yet"),
        (("imagine", model_free), "mappo learns no world model: give a run of dima"),
        (("imagine", walk, "--horizon", "31"), "horizon = 31 is too long: the policy's episode from seed"),
        (("imagine", walk, "--start", "30"), "start = 30 is too late"),
        (("imagine", walk, "--horizon", "0"), "out of range"),
        (("imagine", walk, "--act", "sleeping"), "--act = 'sleeping' is not one of 'recorded', 'policy'"),
        (("imagine", walk, "--width", "8"), "--width = 8 is out of range: expected at least 64 and at most 1920"),
        (("imagine", walk, "--horizn", "3"), "did you mean --horizon?"),
        (("imagine", walk, "--horizon", "2", "--out", tmp_path / "file" / "out"), "choose another --out"),
    ):
        status, out, err = command(*args)
        assert (status, out) == (2, ""), args
        lines = [line for line in err.splitlines() if "no film and no strip" not in line]
        assert len(lines) == 1, err
        assert re.search(message if ".*" in message else re.escape(message), lines[0]), (args, lines)
