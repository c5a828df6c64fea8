"""Answers of MLflow's scoring server to wrong requests: one sentence, without the stack."""

import logging
import sys
from collections.abc import Callable
from functools import wraps
from typing import Any

from pipeline.inference.request import check_body

SERVER = "mlflow.pyfunc.scoring_server"
# MLflow's errors repeat the request around the reason.
_REASON, _REQUEST = "\nError: ", "\nInput: "
_MOST_LETTERS = 500


def guard_server() -> None:
    """Let the server that loads a model in this process answer by `answering`, if there is one."""
    if f"{SERVER}.app" in sys.modules:
        server: Any = sys.modules[SERVER]
        server.invocations = answering(
            server.invocations, server.MlflowException, server.BAD_REQUEST
        )


def answering(
    invocations: Callable[..., Any], refusal: type[Exception], bad_request: int
) -> Callable[..., Any]:
    """Return MLflow's function of requests with other errors.

    A request is first checked by `check_body`. MLflow's own errors hold a stack trace instead of
    the reason, and JSON nested too deeply ends with status 500. The stack of an error that no
    request should cause is logged. `refusal` is MLflow's
    exception, whose message is the response, and `bad_request` its code for status 400.
    """

    @wraps(invocations)
    def answer(*request: Any) -> Any:
        try:
            check_body(*request[:2])
        except ValueError as error:
            raise refusal(str(error), bad_request) from None
        try:
            return invocations(*request)
        except refusal as error:
            raise _in_a_sentence(error, refusal) from None
        except RecursionError:
            # Its stack would fill the log.
            raise refusal("the request is nested too deeply", bad_request) from None
        except Exception as error:
            _log()
            reason = f"the request can't be read: {type(error).__name__}"
            raise refusal(reason, bad_request) from None

    return answer


def _in_a_sentence(error: Any, refusal: type[Exception]) -> Exception:
    """Return MLflow's error with the model's own reason, if it has one, and without the stack."""
    cause = error.__context__
    if isinstance(cause, ValueError) and not isinstance(cause, refusal):
        error.message = str(cause)
    else:
        if cause is not None and not isinstance(cause, refusal):
            _log()
        error.message = error.message.rpartition(_REASON)[2].partition(_REQUEST)[0]
    error.message = error.message[:_MOST_LETTERS]
    error.json_kwargs = {}
    return error


def _log() -> None:
    logging.getLogger(__name__).exception("a request could not be answered")
