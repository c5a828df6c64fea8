"""The soak: training goes on while its processes are killed at random moments."""

import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from jobs.chaos.evidence import Evidence, TakenStep
from jobs.chaos.faults import Draw, Fault, Kind
from jobs.chaos.nodes import Nodes
from jobs.chaos.programs import Program, Server, kill
from jobs.chaos.training import STOPPED, TERMINATED, Training
from pipeline.io.console import duration, say
from pipeline.run.journal import Journal
from pipeline.tracking.sync_state import read_position

NODES = 2
_MOST_NODES = 3
_LOOK_S = 0.2
# Training that takes longer to come further has not survived.
_GIVE_UP_S = 300.0
_STOP_S = 180.0
# Of what a driver said before it gave up.
_SHOWN_BYTES = 3000


@dataclass
class Debt:
    """What MLflow is owed after an outage: the entries that a run's journal had when the server was back."""

    fault: Fault
    folder: Path
    entries: int = 0
    since: float = 0.0
    delivery: Program | None = None

    @property
    def is_under_way(self) -> bool:
        """Whether it is being delivered by a command of its own, or has been."""
        return self.delivery is not None and not self.delivery.status()


class Soak:
    """Injects faults into a training that is under way, and keeps it going as a person would: by the same command."""

    def __init__(
        self,
        training: Training,
        nodes: Nodes,
        server: Server,
        evidence: Evidence,
        draws: Iterator[Draw],
    ) -> None:
        self._training, self._nodes, self._server = training, nodes, server
        self._evidence, self._draws = evidence, draws
        self.faults: list[Fault] = []
        self.exits: Counter[str] = Counter()
        """How drivers ended."""
        self.delivered_s: list[float] = []
        """Seconds from each time that the server was back until it had all that had waited."""
        self.delivered_by_command = 0
        """How often a run had ended before, and `jobs.deliver` was needed."""
        self.steps: list[TakenStep] = []
        """Those that took training further, in order."""
        self._coming: list[tuple[float, Callable[[], None]]] = []
        self._debt: Debt | None = None
        self._is_asked = False
        self._next = next(draws)

    def run(self, seconds: float) -> None:
        """Train with faults for so long, then without until the last is survived, and stop in order."""
        self._started = time.time()
        self._training.begin()
        while self._elapsed() < seconds:
            self._look()
            if self._is_due():
                self._inject(self._next)
                self._next = next(self._draws)
        say(f"{duration(seconds)} are over: no more faults")
        while self._coming or self._is_open():
            self._look()
        self._training.driver.ask_to_stop()
        self._ended(self._training.driver.wait(_STOP_S))
        self.steps += self._evidence.read_on()

    def _elapsed(self) -> float:
        return time.time() - self._started

    def _look(self) -> None:
        """See how far all is, and do what is to be done now."""
        time.sleep(_LOOK_S)
        before = self._evidence.furthest
        added = self._evidence.read_on()
        for fault in self.faults:
            if fault.recovered is None:
                fault.notice(added)
                if fault.lost_s is not None:
                    self._say(f"{fault.kind}: training is further after {fault.lost_s:.1f} s")
        for step in added:
            if step.position > before:
                self.steps.append(step)
                before = step.position
        self._tend()
        self._collect()
        for due, action in list(self._coming):
            if time.time() >= due:
                self._coming.remove((due, action))
                action()

    def _tend(self) -> None:
        """Start the next run, or give the same command again, when the driver has ended."""
        status = self._training.driver.status()
        if status is None:
            return
        self._ended(status)
        is_expected = self._is_asked and status in (STOPPED, TERMINATED)
        self._is_asked = False
        if status == 0:
            self._training.begin()
            return
        if not is_expected:
            for fault in self.faults:
                fault.is_given_up |= fault.recovered is None
            said = self._training.log.read_text()[-_SHOWN_BYTES:]
            self._say(f"the driver gave up with status {status}:\n{said}\n(end of what it said)")
        self._training.go_on()

    def _ended(self, status: int) -> None:
        how = f"after SIGTERM, status {status}" if self._is_asked else f"status {status}"
        self.exits[how] += 1

    def _is_open(self) -> bool:
        """Whether it is still to be seen if a fault is survived."""
        now = time.time()
        return any(
            not (fault.is_survived or fault.is_given_up) and now - fault.time < _GIVE_UP_S
            for fault in self.faults
        )

    def _is_due(self) -> bool:
        """Whether it is time for the next fault; the first waits for the first step."""
        if not self.faults:
            return bool(self.steps) and time.time() - self.steps[0].time >= self._next.wait_s
        last = self.faults[-1]
        if self._next.is_hasty:
            since: float | None = last.time
        elif time.time() - last.time > _GIVE_UP_S:
            return True
        else:
            since = last.recovered
        return since is not None and time.time() - since >= self._next.wait_s

    def _inject(self, draw: Draw) -> None:
        """Do what was drawn, if there is anything to do it to; else it is passed over."""
        fault = Fault(
            kind=draw.kind, time=time.time(), before=self._evidence.furthest, is_fatal=True
        )
        strike = {
            Kind.WORKER: self._kill_worker,
            Kind.DRIVER: self._kill_driver,
            Kind.STOP: self._stop_driver,
            Kind.NODE: self._lose_node,
            Kind.JOIN: self._add_node,
            Kind.SERVER: self._kill_server,
        }[draw.kind]
        if strike(draw, fault):
            self.faults.append(fault)
            haste = ", in haste" if draw.is_hasty else ""
            run, epoch, step = fault.before
            self._say(
                f"fault {len(self.faults)}: {fault.kind}{haste}, at {run or 'the start'}, "
                f"epoch {epoch + 1}, step {step}"
            )

    def _kill_worker(self, draw: Draw, fault: Fault) -> bool:
        alive = self._nodes.workers()
        ranks = [rank for rank in self._evidence.ranks if rank.pid in alive]
        if ranks:
            kill([ranks[int(draw.choice * len(ranks))].pid])
        return bool(ranks)

    def _kill_driver(self, draw: Draw, fault: Fault) -> bool:
        self._training.driver.kill()
        self._is_asked = False
        self.exits["killed"] += 1
        self._training.go_on()
        return True

    def _stop_driver(self, draw: Draw, fault: Fault) -> bool:
        if self._is_asked:
            return False
        self._training.driver.ask_to_stop()
        self._is_asked = True
        return True

    def _lose_node(self, draw: Draw, fault: Fault) -> bool:
        if len(self._nodes) < NODES:
            return False
        ranks = {rank.pid for rank in self._evidence.ranks}
        fault.is_fatal = not ranks.isdisjoint(self._nodes.remove(draw.choice))
        if len(self._nodes) < NODES:
            self._coming.append((time.time() + draw.away_s, self._nodes.add))
        return True

    def _add_node(self, draw: Draw, fault: Fault) -> bool:
        if len(self._nodes) == _MOST_NODES:
            return False
        self._nodes.add()
        fault.is_fatal = False
        return True

    def _kill_server(self, draw: Draw, fault: Fault) -> bool:
        if self._debt is not None:
            return False
        self._server.kill()
        fault.is_fatal = fault.is_settled = False
        self._coming.append((time.time() + draw.away_s, self._server.start))
        self._debt = Debt(fault, self._training.folder)
        return True

    def _collect(self) -> None:
        """See whether the server has what waited while it was away; send it where the run has ended meanwhile."""
        debt = self._debt
        if debt is None or not (debt.entries or self._server.answers()):
            return
        if not debt.entries:
            debt.entries, debt.since = len(Journal(debt.folder).entries()), time.time()
        position = read_position(debt.folder, self._server.uri)
        if position.seq >= debt.entries and not any(seq <= debt.entries for seq in position.later):
            debt.fault.is_settled, self._debt = True, None
            self.delivered_s.append(time.time() - debt.since)
            self._say(f"MLflow has all that waited {self.delivered_s[-1]:.1f} s after it was back")
        elif debt.folder != self._training.folder and not debt.is_under_way:
            # The run has said that this is left to do.
            debt.delivery = self._training.deliver(debt.folder)
            self.delivered_by_command += 1

    def _say(self, line: str) -> None:
        say(f"[{self._elapsed():6.1f} s] {line}")
