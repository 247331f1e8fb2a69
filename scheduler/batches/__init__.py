"""What is done for batches, each by itself and again without harm.

    check_lines   the input becomes rows               feed_lines   rows become jobs, a window at a time
    stop_lines    what is not to run any more ends     assemble     rows become files

Any number of schedulers may do it at once. Every step changes rows only from the state it found them
in, and a job has the id of its line, so that the second to come changes nothing; that each batch has
one scheduler at a time (turns) only spares the work.
"""
