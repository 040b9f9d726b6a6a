"""The command line: output, exit status, and one line for every error."""

import io
import json
import os
import signal
import subprocess
import sys

import pytest

import dima
from dima.cli import COMMANDS, main
from dima.cli.options import _one_line
from dima.runtime.progress import Progress

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture
def command(capsys):
    """Runs a command; gives its exit status, standard output and standard error."""

    def run(*args):
        try:
            status = main([str(arg) for arg in args])
        except SystemExit as end:
            status = end.code
        out, err = capsys.readouterr()
        return status, out, err

    return run


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """The folder of a finished run."""
    path = tmp_path_factory.mktemp("runs") / "walk"
    assert main(["train", "toy/walk", "--algorithm", "mappo", *SHORT, f"--run={path}"]) == 0
    return path


SHORT = ("--preset", "debug", "--steps", "120", "--device", "cpu", "--threads", "1", "--no-tensorboard")


class TestHelp:
    def test_names_every_command(self, command):
        for args in ((), ("--help",), ("help",)):
            status, out, _ = command(*args)
            assert status == 0
            assert all(name in out for name in COMMANDS)

    def test_version(self, command):
        assert command("--version") == (0, f"dima {dima.__version__}\n", "")

    @pytest.mark.parametrize("name", COMMANDS)
    def test_every_command_has_help(self, command, name):
        status, out, _ = command(name, "--help")
        assert status in (0, None)
        assert f"dima {name}" in out

    def test_train_shows_the_presets_values_with_every_field(self, command):
        _, out, _ = command("train", "mpe/simple_spread", "--algorithm", "dima", "--preset", "small", "--help-all")
        text = " ".join(out.split())
        assert "environment steps of the whole run (at least 1; default: 8000)" in text
        assert "--learner.world-model.denoiser.reveal {one,cumulative,all}" in text
        assert "default: cumulative)" in text

    def test_imports_nothing_heavy(self):
        heavy = "{'torch', 'numpy', 'tyro'}"
        program = f"import sys, dima, dima.cli; dima.cli.main([]); print(sorted({heavy} & set(sys.modules)))"
        done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
        assert done.stdout.endswith("[]\n")


class TestTrain:
    def test_answers_on_standard_output(self, command, tmp_path):
        status, out, err = command("train", "toy/walk", *SHORT, "--run", tmp_path / "run", "--learner.horizon", "3")
        assert status == 0
        assert f"run folder: {tmp_path / 'run'}" in out
        assert "team return" in out
        assert "step 120 of 120" in err
        from dima.storage.run_folder import RunFolder

        config = RunFolder.open(tmp_path / "run").config()
        assert config["learner"]["horizon"] == 3
        assert config["learner"]["imaginations"] == 2  # of the preset

    def test_quiet_prints_nothing_but_warnings_and_errors(self, command, tmp_path):
        quiet = (*SHORT, "--quiet", "--run", tmp_path / "run")
        assert command("train", "toy/walk", "--algorithm", "mappo", *quiet) == (0, "", "")
        assert command("resume", tmp_path / "run", "--steps", "180", "--quiet") == (0, "", "")
        seeds = (*SHORT, "--quiet", "--run", tmp_path / "seeds", "--seeds", "0", "1")
        assert command("train", "toy/walk", "--algorithm", "mappo", *seeds) == (0, "", "")
        data = tmp_path / "data"
        assert command("dataset", "record", "toy/walk", "--steps", "120", "--out", data, "--quiet") == (0, "", "")
        fit = (*SHORT[:2], *SHORT[4:], "--iterations", "1", "--quiet", "--run", tmp_path / "fit")
        assert command("fit", data, "--evaluation-horizon", "3", *fit) == (0, "", "")
        status, out, err = command("train", "toy/walk", "--algorithm", "mappo", *quiet)
        assert (status, out, err.count("\n")) == (2, "", 1)
        hasac = ("train", "toy/walk", "--algorithm", "hasac", *SHORT, "--quiet", "--run", tmp_path / "short")
        status, out, err = command(*hasac, "--learner.warmup", "120")
        assert (status, out, err.count("\n")) == (0, "", 1)
        assert "no more than the 120 that hasac collects" in err

    def test_the_task_may_be_anywhere(self, command, tmp_path):
        args = ["--quiet", "--algorithm=mappo", *SHORT[:2], "--steps=60", f"--run={tmp_path / 'r'}", "toy/walk"]
        assert command("train", *args)[0] == 0

    @pytest.mark.parametrize(
        "switch", ["--evaluate-in-background", "--learner.ppo.linear-lr-decay", "--env-processes False"]
    )
    def test_a_switch_before_the_task_does_not_hide_it(self, command, tmp_path, switch):
        args = [*switch.split(), "toy/walk", "--quiet", "--algorithm=mappo", *SHORT[:2], "--steps=60"]
        assert command("train", *args, f"--run={tmp_path / 'r'}")[0] == 0

    @pytest.mark.parametrize(
        ("flags", "expected"),
        [
            (["--steps", "6e1"], {"steps": 60}),
            (["--steps=6.0E+1", "--learner.ppo.critic.hidden", "1.6e1", "32"], {"steps": 60, "hidden": (16, 32)}),
            (["--tensorboard", "False", "--steps", "1e1"], {"steps": 10, "tensorboard": False}),
            (["--no-tensorboard", "True"], {"tensorboard": False}),
            (["--no-tensorboard=false"], {"tensorboard": True}),
            (["--learner.ppo.lr", "1e-4"], {"lr": 1e-4}),
            (["--run", "1e6"], {"run": "1e6"}),
        ],
    )
    def test_whole_numbers_with_an_exponent_and_switches_with_a_value(self, command, monkeypatch, flags, expected):
        def stop(config, **kwargs):
            found = {"hidden": config.learner.ppo.critic.hidden, "lr": config.learner.ppo.lr, **vars(config)}
            assert {name: found[name] for name in expected} == expected
            raise KeyboardInterrupt

        monkeypatch.setattr(sys.modules["dima.training.online"], "train", stop)
        assert command("train", "toy/walk", "--algorithm", "mappo", "--preset", "debug", *flags)[0] == 130

    @pytest.mark.parametrize(("flag", "value"), [("--tensorboard", "off"), ("--learner.no-cuda-graphs", "0")])
    @pytest.mark.parametrize("separator", [" ", "="])
    def test_other_values_of_a_switch_are_one_line(self, command, flag, value, separator):
        status, out, err = command("train", "toy/walk", "--preset", "debug", *f"{flag}{separator}{value}".split())
        assert (status, out) == (2, "")
        name = flag.replace("no-", "")
        assert err.startswith(f"dima: {name} = {value!r} is neither true nor false: {name} alone is true, ")

    @pytest.mark.parametrize("value", ["1.5e0", "1e-3", "1e999", "1e99", "much"])
    def test_other_numbers_for_an_integer_are_one_line(self, command, value):
        status, out, err = command("train", "toy/walk", "--steps", value)
        assert (status, out, err.count("\n")) == (2, "", 1)
        assert "steps" in err

    def test_a_home_and_a_linked_folder(self, command, tmp_path, monkeypatch):
        monkeypatch.setenv("HOME", str(tmp_path))
        monkeypatch.chdir(tmp_path)
        (tmp_path / "disk").mkdir()
        (tmp_path / "link").symlink_to("disk")
        args = ("train", "toy/walk", "--algorithm", "mappo", *SHORT)
        assert command(*args, "--run", "~/link/run")[0] == 0
        assert (tmp_path / "disk" / "run" / "checkpoint").is_dir()
        (tmp_path / "direct").symlink_to("disk/run")
        for steps, run in ((180, "~/link/run"), (240, "direct")):
            assert command("resume", run, "--steps", str(steps), "--quiet")[0] == 0
        assert command("evaluate", "~/direct", "--episodes", "1")[0] == 0
        (tmp_path / "disk" / "run" / "checkpoint").rename(tmp_path / "elsewhere")
        (tmp_path / "disk" / "run" / "checkpoint").symlink_to(tmp_path / "elsewhere")
        assert command("evaluate", "direct", "--episodes", "1")[0] == 0
        for steps in ("300", "360"):
            assert command("resume", "direct", "--steps", steps, "--quiet")[0] == 0
        assert (tmp_path / "elsewhere" / "manifest.json").is_file()
        assert command("report", "~/direct", "--out", "~/page")[0] == 0
        assert command("dataset", "record", "toy/walk", "--steps", "60", "--out", "~/data", "--quiet")[0] == 0
        assert command("dataset", "info", "~/data")[0] == 0
        assert not (tmp_path / "~").exists()

    @pytest.mark.parametrize(
        "args",
        [
            ("train", "toy/walk", "--run"),
            ("dataset", "record", "toy/walk", "--out"),
            ("resume",),
            ("evaluate",),
            ("imagine",),
            ("report",),
            ("fit",),
        ],
        ids=" ".join,
    )
    def test_a_name_that_is_too_long(self, command, tmp_path, monkeypatch, args):
        monkeypatch.chdir(tmp_path)
        status, out, err = command(*args, "x" * 300)
        assert (status, out, err.count("\n")) == (2, "", 1)
        assert "is too long: a name may have 255 bytes" in err
        status, out, err = command(*args, os.fsdecode(b"a\xff"))
        assert (status, out, err.count("\n")) == (2, "", 1)
        assert "'a\\udcff' is not UTF-8" in err

    @pytest.mark.parametrize("encoding", ["ascii", "cp1252"])
    def test_what_a_terminal_cannot_show_does_not_end_a_command(self, finished, monkeypatch, encoding):
        shown = io.TextIOWrapper(io.BytesIO(), encoding=encoding)
        monkeypatch.setattr(sys, "stdout", shown)
        assert main(["evaluate", str(finished), "--episodes", "1"]) == 0
        print("▪")
        shown.flush()
        assert b"team return" in shown.buffer.getvalue()

    def test_never_overwrites_by_default(self, command, finished):
        before = (finished / "metrics.jsonl").read_bytes()
        status, _, err = command("train", "toy/walk", "--algorithm", "mappo", *SHORT, "--run", finished)
        assert status == 2
        assert "already holds a run" in err
        assert (finished / "metrics.jsonl").read_bytes() == before

    def test_interrupted_and_resumed(self, command, tmp_path, monkeypatch):
        class Impatient(Progress):
            def iteration(self, done, total, **numbers):
                os.kill(os.getpid(), signal.SIGTERM)

        monkeypatch.setattr("dima.runtime.progress.choose_progress", lambda quiet: Impatient())
        args = ("train", "toy/walk", "--algorithm", "mappo", *SHORT, "--run", tmp_path / "run")
        status, out, err = command(*args)
        assert status == 130
        assert f"continue with `dima resume {tmp_path / 'run'}`" in out
        assert "stopping as soon as the work is saved" in err
        monkeypatch.setattr("dima.runtime.progress.choose_progress", lambda quiet: Progress())
        status, out, _ = command("resume", tmp_path / "run")
        assert status == 0
        assert "120 environment steps" in out or "150 environment steps" in out

    def test_a_second_interrupt_stops_immediately(self, command, monkeypatch):
        def stop(*args, **kwargs):
            raise KeyboardInterrupt

        monkeypatch.setattr(sys.modules["dima.training.online"], "train", stop)
        status, _, err = command("train", "toy/walk")
        assert status == 130
        assert err.count("\n") == 1

    def test_an_internal_error_keeps_its_traceback(self, monkeypatch):
        def fail(*args, **kwargs):
            raise ZeroDivisionError

        monkeypatch.setattr(sys.modules["dima.training.online"], "train", fail)
        with pytest.raises(ZeroDivisionError):
            main(["train", "toy/walk"])


class TestOthers:
    def test_resume_to_more_steps(self, command, tmp_path, finished):
        import shutil

        copy = shutil.copytree(finished, tmp_path / "copy")
        status, out, _ = command("resume", copy, "--steps", "200")
        assert status == 0
        assert "200 environment steps" in out

    def test_evaluate(self, command, finished):
        status, out, err = command("evaluate", finished, "--episodes", "3")
        assert status == 0
        assert "over 3 episodes" in out
        assert "episode_limit = 30" in out
        assert err == ""

    def test_evaluate_as_json(self, command, finished):
        answers = [
            json.loads(command("evaluate", finished, "--episodes", "2", "--json", "--seed", s)[1]) for s in (5, 5, 6)
        ]
        assert answers[0] == answers[1] != answers[2]
        assert len(answers[0]["returns"]) == 2
        assert answers[0]["mean"] == pytest.approx(sum(answers[0]["returns"]) / 2)

    def test_tasks(self, command):
        status, out, _ = command("tasks")
        assert status == 0
        assert "mamujoco/halfcheetah-2x3 " in out
        assert all(line.startswith("toy/") for line in command("tasks", "toy/")[1].splitlines())

    def test_algorithms(self, command):
        status, out, _ = command("algorithms")
        assert status == 0
        assert "dima " in out
        assert "presets: published, debug, quick, small" in out

    def test_train_shows_the_default_preset(self, command):
        _, out, _ = command("train", "toy/walk", "--algorithm", "mappo", "--help")
        text = " ".join(out.split())
        assert "environment steps of the whole run (default: 20000)" in text
        assert "(see `dima algorithms`) (default: small)" in text

    def test_doctor(self, command):
        status, out, _ = command("doctor")
        assert status == 0
        assert "torch" in out
        assert "cores" in out

    def test_python_dash_m(self):
        done = subprocess.run([sys.executable, "-m", "dima", "--version"], capture_output=True, text=True, check=False)
        assert (done.returncode, done.stdout) == (0, f"dima {dima.__version__}\n")

    def test_a_closed_output_pipe(self):
        child = subprocess.Popen([sys.executable, "-m", "dima"], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        child.stdout.close()
        assert child.stderr.read() == b""
        child.stderr.close()
        assert child.wait() == 1


@pytest.mark.parametrize(
    ("args", "message"),
    [
        ("trian", "there is no command 'trian': did you mean 'train'?"),
        ("train", "no task was given"),
        ("train toy/wlak", "did you mean 'walk'?"),
        ("train tyo/walk", "did you mean 'toy'?"),
        ("train toy/walk --algorithm mapo", "did you mean 'mappo'?"),
        ("train toy/walk --preset smal", "did you mean 'small'?"),
        ("train toy/walk --preset", "--preset needs a value"),
        ("train toy/walk --stps 3", "there is no option --stps: did you mean --steps?"),
        ("train toy/walk --clip 3", "there is no option --clip: did you mean --learner.ppo.clip?"),
        ("train toy/walk --learner.pppo.clip=3", "did you mean --learner.ppo.clip?"),
        ("train toy/walk --horizn=3", "did you mean --learner.horizon?"),
        ("train toy/walk --qqqqqqqq", "there is no option --qqqqqqqq: see `dima train --help`"),
        ("train toy/walk toy/linear", "unexpected argument 'toy/linear'"),
        ("train toy/walk --steps", "--steps needs a value"),
        ("train toy/walk --steps x", "--steps = 'x' is not a whole number"),
        ("train toy/walk --seeds x", "--seeds = x does not fit"),
        ("train toy/walk --seeds 1 1", "seeds = [1, 1]: give at least one, each of them once"),
        ("train toy/walk --seeds", "seeds = []: give at least one"),
        ("train toy/walk --seeds 1 2 --seed 3", "--seed and --seeds exclude each other"),
        ("train toy/walk --seed=0 --seeds 1 2", "--seed and --seeds exclude each other"),
        ("train toy/walk --seeds 1 99999999999999999999", "seed = 99999999999999999999 is out of range"),
        ("train toy/walk --steps 0", "--steps = 0 is out of range: expected at least 1"),
        ("train toy/walk --learner.ppo.lam x", "--learner.ppo.lam = 'x' is not a number"),
        ("train toy/walk --learner.ppo.lam 1.5", "--learner.ppo.lam = 1.5 is out of range"),
        ("train toy/walk --device gpu", "--device = 'gpu' is not one of 'auto', 'cpu', 'cuda'"),
        ("resume", "`dima resume` needs a run folder"),
        ("resume nowhere", "nowhere does not exist"),
        ("evaluate nowhere", "nowhere does not exist"),
        ("evaluate nowhere --episodes 0", "--episodes = 0 is out of range: expected at least 1"),
        ("evaluate nowhere --episods 3", "did you mean --episodes?"),
        ("evaluate", "`dima evaluate` needs a run folder"),
        ("imagine", "`dima imagine` needs a run folder"),
        ("diagnose", "`dima diagnose` needs a run folder"),
        ("report", "no run folder was given"),
        ("fit", "no dataset was given"),
        ("check", "no task was given"),
        ("export", "`dima export` needs a run folder"),
        ("push runs/x", "`dima push` needs a repository"),
        ("pull", "`dima pull` needs a repository"),
        ("completion", "`dima completion` needs a shell"),
        ("completion tcsh", "'tcsh' is not one of 'bash', 'zsh', 'fish'"),
        ("dataset record", "no task was given"),
        ("dataset import", "no task was given"),
        ("dataset info", "`dima dataset info` needs a dataset folder"),
        ("dataset export data", "`dima dataset export` needs"),
        ("dataset recrod", "there is no command 'recrod' of `dima dataset`: did you mean 'record'?"),
        ("algorithms all", "unexpected argument 'all'"),
        ("demo now", "unexpected argument 'now'"),
        ("tasks nonsense", "no task's name contains 'nonsense'"),
        ("check toy/wlak", "did you mean 'walk'?"),
        ("doctor --all", "there is no option --all: see `dima doctor --help`"),
        ("dataset record toy/walk --zzz 1", "there is no option --zzz: see `dima dataset record --help`"),
    ],
)
def test_every_error_is_one_line(command, args, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    status, out, err = command(*args.split())
    assert status == 2
    assert out == ""
    assert message in err
    assert err.startswith("dima: ")
    assert err.count("\n") == 1
    assert not list(tmp_path.iterdir()), "something was written"


def test_messages_do_not_depend_on_the_terminal():
    text = ["Error parsing --a: could not convert", "string to float: 'x'"]
    framed = ["╭─ Value error ───╮", *(f"│ {line} │" for line in [*text, "─────", "For full helptext, see x"]), "╰───╯"]
    plain = ["+- Value error ---+", *(f"| {line} |" for line in text), "+-----------------+"]
    assert _one_line("\n".join(framed)) == _one_line("\n".join(plain)) == "--a = 'x' is not a number"
