from dataclasses import dataclass

AGENT = "irdistill"


@dataclass
class RobotsAnswer:
    status: int
    text: bytes


class Robots:
    def __init__(self, fetch):
        self.fetch = fetch
        self.seen = {}

    async def check(self, url):
        if url.origin not in self.seen:
            self.seen[url.origin] = 1
            await self.fetch(url.origin)
        return None
