"""`python -m tests.soak --minutes M`: readers and walkers on a real mount while its service goes wrong at random.

    journal.py    what the service has held, version by version: the truth
    server.py     the emulator, built again from the journal each time that it is started
    plan.py       what happens when: a pure function of seed and minutes
    worker.py, reading.py, walking.py    one process that uses the mount and checks what it gets
    crew.py       sixteen of them: started, killed, watched for waits that do not end
    watch.py      what the mount's process holds, its cache, its log
    verdict.py    what is allowed, and the report
    drive.py      a run from its beginning to its end

What is hard is to know what is right while everything changes. Everything that the service will hold is in the journal
before the service holds it, and no file ever has the same size twice: so the size of a file names its version, and the
version its bytes. An open file is a version until its bytes are another one's, from the first byte on.
"""
