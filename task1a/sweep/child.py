"""One run of a sweep: the runner, in a process of its own that ends when whoever started it stops or dies.

It is started with a pipe as its standard input. Nothing is ever written into it; it closes with the process that holds
the other end, however that ends, on every operating system. No run is left behind that nobody watches.
"""
import _thread
import os
import signal
import sys
import threading
import time

BUSY = 75
"""exit status where another process is working on the run"""
GRACE = 10.0
"""seconds to end in as after Ctrl-C, before the process is ended as it is; a run goes on from there either way"""


def end_with_starter() -> None:
    """From here on, end this process as Ctrl-C does once its standard input closes."""
    # who starts it in the background, or a worker of Ray, hands down to ignore Ctrl-C
    signal.signal(signal.SIGINT, signal.default_int_handler)
    if hasattr(signal, "pthread_sigmask"):
        signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGINT])
    pipe = os.dup(0)
    nothing = os.open(os.devnull, os.O_RDONLY)
    # what this process starts must not inherit the pipe: on Windows it would hang on the reading that is under way
    os.dup2(nothing, 0)
    os.close(nothing)
    threading.Thread(target=_watch, args=(pipe,), daemon=True).start()


def _watch(pipe: int) -> None:
    while os.read(pipe, 1):
        pass
    if hasattr(signal, "pthread_kill"):
        signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)  # wakes it where it sleeps
    else:
        _thread.interrupt_main()
    time.sleep(GRACE)
    os._exit(130)


def main() -> int:
    """Run the runner with this process's arguments; returns its status, or BUSY."""
    from task1a import runner

    try:
        return runner.main()
    except runner.Busy as busy:
        print(busy, flush=True)
        return BUSY


if __name__ == "__main__":
    end_with_starter()

    from task1a.errors import run_command

    sys.exit(run_command(main))
