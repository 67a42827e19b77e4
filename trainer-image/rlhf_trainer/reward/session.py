"""A RewardModel's version on one rank: trained, taken or made of graders; measured; and written with its result."""

import gc
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from rlhf_operator.api.guards import NonFiniteGuard
from rlhf_operator.api.plan import LiveSettings, PlanGuard
from rlhf_operator.api.result import AGREEMENT_ALPHA, Result
from rlhf_operator.api.rewardplan import RewardPlan
from rlhf_operator.api.scorerfile import Probe, ScorerFile
from rlhf_scoring.encode import Encoded
from rlhf_scoring.graded import GradedScorer
from rlhf_scoring.judge import Row as Fields
from rlhf_scoring.reward_model import RewardScorer
from rlhf_scoring.scorers import Scorers
from rlhf_trainer.base import check_base
from rlhf_trainer.boundary import Boundary
from rlhf_trainer.checkpoint import CheckpointStore
from rlhf_trainer.distributed import Group
from rlhf_trainer.fencing import RESULT_FILE, Workspace
from rlhf_trainer.files import digest_tree, sync_below
from rlhf_trainer.guards import Guards
from rlhf_trainer.models import library_settings
from rlhf_trainer.options import RunOptions
from rlhf_trainer.preferences.calibration import Temperature
from rlhf_trainer.preferences.prepare import Judgements, Parts, load_judgements, prepare_judgements
from rlhf_trainer.preferences.report import RewardReport
from rlhf_trainer.preferences.report_page import write_report
from rlhf_trainer.progress import Reporter, say
from rlhf_trainer.signals import StopFlag

from .evaluate import Measured, Round, bias_texts, fit
from .measure import (
    GraderScorer,
    ModelScorer,
    RoundScores,
    Row,
    TextScorer,
    read_round,
    score_pairs,
    score_texts,
    store_round,
)
from .probes import probe_texts, write_probes
from .training import Phase, Trained, phase_steps, train_phase
from .version import fresh, model_file, stored_temperatures, take_graders, take_model, write_scorer_file

VERSION_FOLDER = "version"
FINAL = "final"
FINITE = PlanGuard(name="finite", patience=1, non_finite=NonFiniteGuard())
"""A RewardModel has no guards of its own."""
NO_ENGINE = "none"
"""Of a version that was not trained."""


@dataclass(frozen=True)
class _Version:
    """A version that is complete but for what is said of it."""

    measuring: TextScorer
    file: ScorerFile
    temperatures: list[Temperature]
    rounds: list[Round]
    base_digest: str | None
    trained: Trained | None
    run: Boundary | None

    def ask(self, prompts: Sequence[str], responses: Sequence[str], rows: Sequence[Fields]) -> list[Row]:
        """Raw scores by the version itself."""
        return self.measuring.raw(prompts, responses, rows)

    def encode(self, prompt: str, response: str) -> Encoded:
        """What the version's model reads."""
        assert isinstance(self.measuring, ModelScorer)
        return self.measuring.scorer.encode(prompt, response)

    def calibrated(self, raw: Row) -> dict[str, float]:
        """Scores by dimension; those that are missing are left out."""
        temperatures = self.file.temperatures or [1.0] * len(raw)
        found = zip(self.file.dimensions, raw, temperatures, strict=True)
        return {name: score / temperature for name, score, temperature in found if score is not None}


class RewardSession:
    """One attempt's run on one rank."""

    def __init__(
        self,
        plan: RewardPlan,
        options: RunOptions,
        workspace: Workspace,
        group: Group,
        scorers: Scorers,
        stop: StopFlag,
        beat: Callable[[], None],
        reporter: Reporter | None,
    ) -> None:
        self._plan = plan
        self._options = options
        self._workspace = workspace
        self._group = group
        self._scorers = scorers
        self._stop = stop
        self._beat = beat
        self._reporter = reporter
        self._digest = plan.digest()
        self._folder = workspace.own / VERSION_FOLDER

    def run(self) -> None:
        """Do everything that is left of the plan, and write its result."""
        library_settings(self._plan.compute)
        if self._plan.train is not None:
            self._train()
        elif self._plan.model is not None:
            self._take_model()
        else:
            self._take_graders()

    def _judgements(self) -> Judgements:
        if self._group.is_main:
            prepare_judgements(self._plan, self._workspace.root, before_rename=self._workspace.check)
        self._group.barrier("the data")
        self._beat()
        return load_judgements(self._plan, self._workspace.root)

    def _train(self) -> None:
        plan = self._plan
        assert plan.train is not None
        base = Path(plan.train.base_model.path)
        base_digest = check_base(plan.train.base_model, "source.train.baseModel", self._workspace, self._group)
        judgements = self._judgements()
        phases = self._phases(judgements)
        run = Boundary(
            group=self._group,
            workspace=self._workspace,
            store=CheckpointStore(self._workspace, self._group, self._digest, "step", plan.checkpoints.keep),
            checkpoints=plan.checkpoints,
            guards=Guards([FINITE], None),
            stop=self._stop,
            beat=self._beat,
            reporter=self._reporter,
            steps=phases[-1].offset + phases[-1].steps,
        )
        if self._reporter is not None:
            self._reporter.expect(run.steps)
        run.find(self._options.min_checkpoint_step)
        rounds = [
            self._fold(base, phase, run, parts) for phase, parts in zip(phases[:-1], judgements.rounds, strict=False)
        ]
        trained = self._fit(base, phases[-1], run, self._folder)
        scorer = RewardScorer(plan.name, self._folder)
        measuring = ModelScorer(scorer, self._beat)
        final = self._measure(FINAL, measuring, judgements.final, trained.engine, biased=not rounds)
        if len(phases) == 1 and judgements.rounds:
            rounds = [Round(judgements.rounds[0], final)]
        temperatures = self._temperatures(judgements.final, final)
        self._finish(
            _Version(
                measuring,
                model_file(self._folder, plan.dimensions, [each.value for each in temperatures]),
                temperatures,
                rounds,
                base_digest,
                trained,
                run,
            ),
            judgements,
        )

    def _phases(self, judgements: Judgements) -> list[Phase]:
        """One training per fold and the last of all rows; one alone where a part is held out."""
        assert self._plan.train is not None
        folds = judgements.rounds if self._plan.evaluation.folds is not None else []
        named = [(f"fold-{place + 1}", parts) for place, parts in enumerate(folds)] + [(FINAL, judgements.final)]
        phases: list[Phase] = []
        offset = 0
        for name, parts in named:
            steps = phase_steps(self._plan.train, len(parts.train))
            phases.append(Phase(name, parts.train, offset, steps))
            offset += steps
        return phases

    def _fold(self, base: Path, phase: Phase, run: Boundary, parts: Parts) -> Round:
        """Train on one fold's rows and score those it has not seen, unless a former attempt has."""
        known = read_round(self._workspace, phase.name, self._digest) if self._group.is_main else None
        known = self._group.broadcast(known, "a fold's scores")
        if known is not None:
            return Round(parts, known)
        folder = self._workspace.own / phase.name
        trained = self._fit(base, phase, run, folder)
        scorer = RewardScorer(self._plan.name, folder)
        found = self._measure(
            phase.name, ModelScorer(scorer, self._beat), parts, trained.engine, biased=phase.offset == 0
        )
        scorer.close()
        self._group.barrier("a fold")
        if self._group.is_main:
            shutil.rmtree(folder, ignore_errors=True)
        gc.collect()
        return Round(parts, found)

    def _fit(self, base: Path, phase: Phase, run: Boundary, folder: Path) -> Trained:
        found = run.last if run.last is not None and phase.holds(run.last.step) else None
        return train_phase(self._plan, base, phase, run, self._options.micro_batch_size, found, folder)

    def _measure(self, name: str, scorer: TextScorer, parts: Parts, engine: str, *, biased: bool) -> RoundScores:
        """Raw scores of a round's calibration and held-out rows, and of the bias probes; kept for later attempts."""
        calibration = score_pairs(scorer, parts.calibration, self._group)
        held_out = score_pairs(scorer, parts.held_out, self._group)
        texts = bias_texts(parts) if biased and len(parts.held_out) else []
        prompts = [text.prompt for text in texts]
        fields = [text.fields for text in texts]
        found = RoundScores(
            plan_digest=self._digest,
            name=name,
            calibration=calibration,
            held_out=held_out,
            plain=score_texts(scorer, prompts, [text.plain for text in texts], fields, self._group),
            changed=score_texts(scorer, prompts, [text.changed for text in texts], fields, self._group),
            engine=engine,
        )
        if self._group.is_main:
            store_round(self._workspace, found)
        self._beat()
        return found

    def _temperatures(self, parts: Parts, scores: RoundScores) -> list[Temperature]:
        return [
            fit(parts.calibration, scores.calibration, name, place) for place, name in enumerate(self._plan.dimensions)
        ]

    def _take_model(self) -> None:
        source = self._plan.model
        assert source is not None
        base_digest = check_base(source, "source.model", self._workspace, self._group)
        judgements = self._judgements()
        scorer = take_model(self._plan, Path(source.path), fresh(self._folder))
        measuring = ModelScorer(scorer, self._beat)
        rounds = [
            Round(parts, self._measure(FINAL, measuring, parts, NO_ENGINE, biased=True)) for parts in judgements.rounds
        ]
        if rounds:
            temperatures = self._temperatures(rounds[0].parts, rounds[0].scores)
            values = [each.value for each in temperatures]
        else:
            temperatures, values = [], stored_temperatures(self._folder, self._plan.dimensions)
        file = model_file(self._folder, self._plan.dimensions, values)
        self._finish(_Version(measuring, file, temperatures, rounds, base_digest, None, None), judgements)

    def _take_graders(self) -> None:
        judgements = self._judgements()
        file = take_graders(self._plan, fresh(self._folder))
        graded = GradedScorer(self._plan.graders, self._plan.dimensions, self._scorers)
        measuring = GraderScorer(graded)
        rounds = [
            Round(parts, self._measure(FINAL, measuring, parts, NO_ENGINE, biased=True)) for parts in judgements.rounds
        ]
        temperatures = self._temperatures(rounds[0].parts, rounds[0].scores) if rounds else []
        self._finish(_Version(measuring, file, temperatures, rounds, None, None, None), judgements)

    def _finish(self, version: _Version, judgements: Judgements) -> None:
        """Write what belongs to the version beside its weights, and last of all the result."""
        if self._group.is_main:
            report = self._report(version, judgements)
            write_report(report, self._folder)
            write_scorer_file(self._folder, version.file)
            rows: Sequence[Any] = version.rounds[0].parts.held_out if version.rounds else []
            write_probes(self._folder, self._probes(version, rows))
            sync_below(self._folder)
            self._publish(version, report, judgements)
        self._group.barrier("the version")

    def _report(self, version: _Version, judgements: Judgements) -> RewardReport:
        measured = Measured(
            plan=self._plan,
            rounds=version.rounds,
            temperatures=version.temperatures,
            slice_min_samples=self._slice_min_samples(),
            seed=self._plan.train.seed if self._plan.train is not None else 17,
        )
        dimensions = [measured.dimension(place, version.ask) for place in range(len(self._plan.dimensions))]
        return RewardReport(
            name=self._plan.name,
            plan_digest=self._digest,
            dimensions=tuple(dimensions),
            data=judgements.data,
        )

    def _slice_min_samples(self) -> int:
        """Slices smaller than the gate asks for are not named the worst."""
        settings = LiveSettings()
        if self._options.settings is not None and self._options.settings.is_file():
            settings = LiveSettings.model_validate_json(self._options.settings.read_bytes())
        return settings.reward_gate.slice_min_samples if settings.reward_gate is not None else 30

    def _probes(self, version: _Version, rows: Sequence[Any]) -> list[Probe]:
        texts = probe_texts(rows)
        # As other pods will ask for them: with no columns.
        nothing: list[Fields] = [{}] * len(texts)
        raw = version.ask([prompt for prompt, _ in texts], [response for _, response in texts], nothing)
        return [
            Probe(prompt=prompt, response=response, scores=version.calibrated(scores))
            for (prompt, response), scores in zip(texts, raw, strict=True)
            if all(score is not None for score in scores)
        ]

    def _publish(self, version: _Version, report: RewardReport, judgements: Judgements) -> None:
        run, trained = version.run, version.trained
        result = Result(
            plan_digest=self._digest,
            attempt=self._workspace.attempt,
            step=run.steps if run is not None else 0,
            finished_at=datetime.now(UTC),
            policy=self._folder.relative_to(self._workspace.root).as_posix(),
            policy_digest=digest_tree(self._folder),
            base_model_digest=version.base_digest,
            datasets=list(judgements.datasets),
            reward=report.figures() if version.rounds or self._plan.evaluation.must_prefer is not None else [],
            figures=self._figures(version, judgements),
            checkpoint=run.last.record() if run is not None and run.last is not None else None,
            world_size=self._group.world_size,
            engine=trained.engine if trained is not None else NO_ENGINE,
        )
        self._workspace.publish(RESULT_FILE, result.model_dump_json(by_alias=True, indent=1).encode())
        say("result", version=result.policy_digest, reward=[each.dump() for each in result.reward])

    def _figures(self, version: _Version, judgements: Judgements) -> dict[str, float]:
        """What a person asks for beside the gate's figures: agreement, the last step, texts that were cut to fit."""
        data = judgements.data.datasets[:1]
        alphas = [each.alpha for dataset in data for each in dataset.agreement if each.alpha is not None]
        agreement = {AGREEMENT_ALPHA: min(alphas)} if alphas else {}
        if version.trained is None:
            return agreement
        cut = [0, 0]
        for row in (judgements.final.train[at] for at in range(len(judgements.final.train))):
            for text in (row.first, row.second):
                if text is not None:
                    encoded = version.encode(row.prompt, text)
                    cut[0] += encoded.prompt_tokens_cut > 0
                    cut[1] += encoded.response_tokens_cut > 0
            self._beat()
        return {**agreement, **version.trained.figures, "promptsCut": float(cut[0]), "responsesCut": float(cut[1])}
