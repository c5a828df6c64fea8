"""The commands, except that of sweeps."""

from pipeline.io.interruption import end_by_signals_early

end_by_signals_early()
