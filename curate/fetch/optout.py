def find_opt_out(values, *, agent, directives, now):
    return None


def licence_links(values):
    return None
