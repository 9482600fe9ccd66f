"""
FastAPI on uvicorn, with the same group commit: the request is the body of a
POST. HTTP has no event stream, so each response has the event's line before the
reply's.

C{python -m benchmarks.peers.web PORT KEYFILE LEDGER}
"""

import sys
from typing import Annotated

import uvicorn
from fastapi import FastAPI, HTTPException, Response
from pydantic import BaseModel, Field

from benchmarks.peers import common
from benchmarks.peers.asyncio_common import Bookings


class Credit(BaseModel):
    """
    The data of a credit.
    """

    login: Annotated[int, Field(ge=1, le=2**53 - 1)]
    amount: Annotated[float, Field(gt=0, le=10_000_000_000)]
    comment: Annotated[
        str,
        Field(
            min_length=1,
            max_length=255,
            pattern=r"^[^\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f]*$",
        ),
    ]


class Request(BaseModel):
    """
    The envelope.
    """

    command: str
    extID: int | Annotated[str, Field(min_length=1, max_length=128)]
    token: Annotated[str, Field(alias="__token")]
    data: Credit


def application(tokens: common.Tokens, bookings: Bookings) -> FastAPI:
    """
    The server.
    """
    app = FastAPI()

    @app.post("/")
    async def creditInSync(request: Request) -> Response:
        try:
            tokens.check(request.token)
        except ValueError as e:
            raise HTTPException(401, str(e)) from e
        trade = await bookings.book(request.data.model_dump())
        lines = [common.event(trade), common.reply(request.extID, trade), b""]
        return Response(b"\r\n".join(lines), media_type="application/json")

    return app


def main() -> None:
    """
    Serve as the command line says.
    """
    port, key, ledger = sys.argv[1:]
    app = application(
        common.Tokens.fromFile(key), Bookings(common.Ledger.create(ledger))
    )
    uvicorn.run(
        app,
        host="127.0.0.1",
        port=int(port),
        log_level="warning",
        access_log=False,
        timeout_keep_alive=60,
    )


if __name__ == "__main__":
    main()
