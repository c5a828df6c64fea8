"""Sweeps of training runs on Ray Tune."""

from pipeline.io.interruption import end_by_signals_early

end_by_signals_early()
