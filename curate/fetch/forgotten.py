class Forgotten:
    def matches(self, a, b, c):
        return False


def load_forgotten(out):
    return Forgotten()
