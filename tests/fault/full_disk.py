EVENTS = ()
def run_full(job, wanted): raise NotImplementedError
