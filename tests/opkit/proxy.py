"""A TCP proxy that can stop forwarding while its connections stay open: a network that goes silent."""

from __future__ import annotations

import asyncio
import contextlib
import threading


class StallingProxy:
    """Forwards to one address from a thread of its own. `stall` and `resume` act on all connections, also new ones."""

    def __init__(self, host: str, port: int) -> None:
        self._target = (host, port)
        self._loop = asyncio.new_event_loop()
        self._flowing: asyncio.Event | None = None
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._listening = threading.Event()
        self._stop: asyncio.Event | None = None
        self.port = 0

    def __enter__(self) -> StallingProxy:
        self._thread.start()
        if not self._listening.wait(10):
            raise TimeoutError("the proxy does not listen")
        return self

    def __exit__(self, *_: object) -> None:
        if self._stop is not None:
            self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(10)

    def stall(self) -> None:
        """Forward nothing more."""
        if self._flowing is not None:
            self._loop.call_soon_threadsafe(self._flowing.clear)

    def resume(self) -> None:
        """Forward again, what waited included."""
        if self._flowing is not None:
            self._loop.call_soon_threadsafe(self._flowing.set)

    def _run(self) -> None:
        with contextlib.closing(self._loop):
            self._loop.run_until_complete(self._serve())

    async def _serve(self) -> None:
        self._flowing, self._stop = asyncio.Event(), asyncio.Event()
        self._flowing.set()
        server = await asyncio.start_server(self._connected, "127.0.0.1", 0)
        self.port = int(server.sockets[0].getsockname()[1])
        self._listening.set()
        await self._stop.wait()
        server.close()
        tasks = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError, asyncio.CancelledError):
            behind_reader, behind_writer = await asyncio.open_connection(*self._target)
            try:
                await asyncio.gather(self._pump(reader, behind_writer), self._pump(behind_reader, writer))
            finally:
                behind_writer.close()
        writer.close()

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self._flowing is None:
            return
        while chunk := await reader.read(1 << 16):
            await self._flowing.wait()
            writer.write(chunk)
            await writer.drain()
        writer.close()
