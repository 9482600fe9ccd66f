"""
aiorpcX: JSON-RPC over lines, with the same group commit. Its JSON-RPC is adapted
to our member names, so that the bytes on the wire are the same.

C{python -m benchmarks.peers.rpc PORT KEYFILE LEDGER}
"""

import asyncio
import sys
from typing import Any

from aiorpcx import (  # type: ignore[import-untyped]
    JSONRPC,
    JSONRPCConnection,
    NewlineFramer,
    ProtocolError,
    Request,
    RPCError,
    RPCSession,
    serve_rs,
)

from benchmarks.peers import common
from benchmarks.peers.asyncio_common import Bookings


class Wire(JSONRPC):  # type: ignore[misc]
    """
    The protocol.
    """

    allow_batches = False
    _requests = common.validator("request")

    @classmethod
    def _message_to_payload(cls, message: bytes) -> Any:
        request = super()._message_to_payload(message)
        if not cls._requests.is_valid(request):
            raise cls._error(cls.INVALID_REQUEST, "not a request", True, None)
        members = {"token": request["__token"], "data": request["data"]}
        return {"method": request["command"], "params": members, **request}

    @classmethod
    def _message_id(cls, message: dict[str, Any], require_id: bool) -> Any:
        return message["extID"]

    @classmethod
    def _request_args(cls, request: dict[str, Any]) -> Any:
        return request["params"]

    @classmethod
    def request_payload(cls, request: Any, request_id: object) -> dict[str, Any]:
        """
        The server sends nothing by itself but events.
        """
        return {"event": request.method, "type": 0, "data": request.args}

    @classmethod
    def response_payload(cls, result: Any, request_id: object) -> dict[str, Any]:
        """
        A reply.
        """
        return {"extID": request_id, "status": 200, "data": result}

    @classmethod
    def error_payload(cls, error: Any, request_id: object) -> dict[str, Any]:
        """
        An error reply.
        """
        refusal = {"status": 400, "error": "INVALID_DATA", "message": error.message}
        return {"extID": request_id, **refusal}

    @classmethod
    def encode_payload(cls, payload: object) -> bytes:
        """
        The framer adds the line feed.
        """
        return common.encode(payload) + b"\r"


class Session(RPCSession):  # type: ignore[misc]
    """
    One connection, without the library's throttling.
    """

    cost_hard_limit = 0
    initial_concurrent = 10_000
    processing_timeout = common.TIMEOUT

    tokens: common.Tokens
    bookings: Bookings
    audience: "set[Session]" = set()  # noqa: RUF012 - of all sessions
    _credits = common.validator("credit_in")

    def __init__(self, *arguments: Any, **named: Any) -> None:
        super().__init__(*arguments, **named)
        self.audience.add(self)

    def default_connection(self) -> JSONRPCConnection:
        """
        See L{RPCSession}.
        """
        return JSONRPCConnection(Wire)

    def default_framer(self) -> NewlineFramer:
        """
        See L{RPCSession}.
        """
        return NewlineFramer(max_size=65536)

    async def connection_lost(self) -> None:
        """
        Stop sending it events.
        """
        self.audience.discard(self)
        await super().connection_lost()

    async def handle_request(self, request: Request) -> dict[str, Any]:
        """
        Execute one request.
        """
        data = request.args["data"]
        try:
            self.tokens.check(request.args["token"])
            if request.method in common.SUBSCRIPTIONS:
                self._subscribe(request.method == "Subscribe")
                return {}
            if request.method != "CreditInSync":
                raise ValueError("no such command")
            self._credits.validate(data)
        except Exception as e:
            raise RPCError(ProtocolError.INVALID_ARGS, str(e)) from e
        trade = await self.bookings.book(data)
        for session in list(self.audience):
            await session.send_notification("trade:event", trade)
        return trade

    def _subscribe(self, wanted: bool) -> None:
        if wanted:
            self.audience.add(self)
        else:
            self.audience.discard(self)


async def main() -> None:
    """
    Serve as the command line says.
    """
    port, key, ledger = sys.argv[1:]
    Session.tokens = common.Tokens.fromFile(key)
    Session.bookings = Bookings(common.Ledger.create(ledger))
    server = await serve_rs(Session, "127.0.0.1", int(port), backlog=1024)
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(main())
