"""
The output of one connection: what is to be sent, and what is not read.

What is sent in one reactor turn is joined into few writes. A socket gets them at
once: having the reactor wait until it may be written to would cost as much as a
request. What does not leave at once waits here, except for one write that the
transport has.
"""

from typing import Any, Final

from twisted.internet.abstract import FileDescriptor
from twisted.internet.interfaces import ISSLTransport

# Bytes that are written at a time: what a transport buffers before it asks its
# producer to pause. More would only wait there, as a copy for each connection.
WRITE: Final = 65536


class Output:
    """
    Chunks of lines on their way to one client.

    It sees for itself what a socket does not take. Only that goes to the
    transport, which then has nothing to report but that all of it has left, as
    to a pull producer. Any other transport gets everything, and reports to a
    push producer.

    @ivar chunks: What has not been written.
    @ivar isStalled: Whether what was written has not left: the client does not
        read. Its producer sets it.
    """

    # What an endpoint gives: more than ITransport, but not always the same.
    transport: Any
    _sendsAtOnce: bool

    def __init__(self, producer: Any) -> None:
        """
        @param producer: Is told to pause and to resume, as by a transport. It
            is registered by L{begin}.
        """
        self.isStalled = False
        self.chunks: list[bytes | memoryview] = []
        # How many bytes there are in the first so many of the chunks. The others
        # came since then: they are only counted when that is needed.
        self._size = self._counted = self._asked = 0
        self._producer = producer

    def begin(self, transport: Any) -> None:
        """
        Have the transport report to the producer.
        """
        self.transport = transport
        # A wrapper such as TLS shows the methods of the transport below it as
        # its own, but nothing may bypass it.
        self._sendsAtOnce = isinstance(
            transport, FileDescriptor
        ) and not ISSLTransport.providedBy(transport)
        transport.registerProducer(self._producer, not self._sendsAtOnce)

    @property
    def size(self) -> int:
        """
        How many bytes have not been written.
        """
        self._size += sum(map(len, self.chunks[self._counted :]))
        self._counted = len(self.chunks)
        return self._size

    def addedLong(self, data: bytes) -> None:
        """
        Note that the last chunk is longer than L{WRITE}.
        """
        if data.find(b"\n") == len(data) - 1:
            # One line: the reply of a look-up. The next look-up of this client begins
            # only when it has read this. A view can be divided without copying it.
            self.chunks[-1] = memoryview(data)
            self._asked += len(data)

    @property
    def hasLongReply(self) -> bool:
        """
        Whether part of a long reply has not been written.
        """
        return self._asked > 0

    @property
    def excess(self) -> int:
        """
        How many bytes have not been written, without long replies: a client that has
        asked for one has to have the time to read it.
        """
        return self.size - self._asked

    def flush(self) -> None:
        """
        Write what there is, until nothing is left or the client does not read.
        """
        chunks = self.chunks
        while chunks and not self.isStalled:
            if self.size <= WRITE:
                data = b"".join(chunks)
                self.clear()
            else:
                data = self._takeSome()
            self._write(data)

    def clear(self) -> None:
        """
        Forget what was not written.
        """
        self.chunks.clear()
        self._size = self._counted = self._asked = 0

    @property
    def unread(self) -> int:
        """
        How many bytes have not left this process.
        """
        below = self.transport
        while below is not None and not isinstance(below, FileDescriptor):
            below = getattr(below, "transport", None)
        if below is None:
            return self.size
        # What was written and is not joined yet is in a private attribute.
        buffered = len(below.dataBuffer) - below.offset + below._tempDataLen
        return int(self.size + buffered)

    def _write(self, data: bytes) -> None:
        """
        Send what can be sent at once, and leave the rest to the transport.
        """
        if self._sendsAtOnce:
            sent = self.transport.writeSomeData(data)
            if sent == len(data):
                return
            self._producer.pauseProducing()
            # Otherwise it is an error: the connection is lost, which the reactor
            # finds out in its turn.
            if isinstance(sent, int):
                data = data[sent:]
        self.transport.write(data)

    def _takeSome(self) -> bytes:
        """
        Take as many chunks as are written at a time, of more than that; of a long
        reply, a part.
        """
        chunks = self.chunks
        first = chunks[0]
        if isinstance(first, memoryview) and len(first) > WRITE:
            chunks[0] = first[WRITE:]
            self._size -= WRITE
            self._asked -= WRITE
            return bytes(first[:WRITE])
        count, size = 1, len(first)
        while count < len(chunks) and size + len(chunks[count]) <= WRITE:
            size += len(chunks[count])
            count += 1
        taken = chunks[:count]
        data = b"".join(taken)
        del chunks[:count]
        self._counted -= count
        self._size -= len(data)
        self._asked -= sum(len(each) for each in taken if isinstance(each, memoryview))
        return data
