"""The bridge from a serial line to the accelerator's registers and its memory."""

from amaranth.hdl import Array, Cat, Module, Mux, Signal
from amaranth.lib import stream, wiring
from amaranth.lib.crc.catalog import CRC32_ISO_HDLC
from amaranth.lib.wiring import In, Out

from intaglio.spec import link
from intaglio.spec.config import AcceleratorConfig
from intaglio.spec.link import Command, Request, Response, Status
from intaglio_hw.csr import AXI_LITE_ADDRESS_BITS, OKAY, axi_lite_members
from intaglio_hw.interfaces import AxiReadSignature, AxiWriteSignature
from intaglio_hw.memory import Scratchpad

__all__ = ["UartBridge"]

_WORD_BYTES = 4
_CHECK_BYTES = 4


class UartBridge(wiring.Component):
    """Answers the requests of :mod:`intaglio.spec.link`.

    1. A request is carried out when all of it has arrived and its check is right; until then it
       changes nothing. Others are dropped without a response, the host repeats them.
    2. A write with the sequence number of the request before is a repetition: it is answered again,
       and not carried out again. A write to ``session`` never is one.
    3. Bytes that arrive before the response has gone are dropped.
    4. One request at a time; memory is accessed in one burst.

    Parameters
    ----------
    config
        Bus width.
    memory_bytes, clock_hz
        What the registers of these names say.
    gap_cycles
        Cycles of silence after which the beginning of a request is forgotten.
    family
        Whose memory the payload waits in.

    Members
    -------
    rx, tx
        Bytes from and to the line; ``rx`` is taken at once.
    m_axil_*
        AXI4-Lite manager for the accelerator's registers.
    read, write
        Memory.
    interrupt
        The accelerator's.
    active
        High while a request is carried out or answered.
    """

    def __init__(
        self,
        *,
        config: AcceleratorConfig,
        memory_bytes: int,
        clock_hz: int,
        gap_cycles: int,
        family: str = "generic",
    ) -> None:
        if gap_cycles < 1:
            raise ValueError(f"gap_cycles must be at least 1, not {gap_cycles}")
        self.config, self.family = config, family
        self.memory_bytes, self.clock_hz, self.gap_cycles = memory_bytes, clock_hz, gap_cycles
        members: dict = {name: member.flip() for name, member in axi_lite_members("m_axil").items()}
        members |= {
            "rx": In(stream.Signature(8)),
            "tx": Out(stream.Signature(8)),
            "read": Out(AxiReadSignature(config)),
            "write": Out(AxiWriteSignature(config)),
            "interrupt": In(1),
            "active": Out(1),
        }
        super().__init__(members)

    def elaborate(self, platform):
        m = Module()
        beat = self.config.bus_bytes
        self._lane_bits = (beat - 1).bit_length()
        m.submodules.crc = self._crc = CRC32_ISO_HDLC(data_width=8).create()
        # Bytes, as the line has them: a beat is put together in a register.
        m.submodules.buffer = self._buffer = Scratchpad(
            depth=link.MAX_PAYLOAD, width=8, family=self.family
        )
        self._header = Signal(8 * Request.HEADER_BYTES, reset_less=True)
        fields, offset = {}, 0
        for field in link.REQUEST_HEADER:
            fields[field.name] = self._header[offset : offset + 8 * field.nbytes]
            offset += 8 * field.nbytes
        self._fields = fields
        # A beat; the value of a register is its upper end.
        self._beat = Signal(8 * beat, reset_less=True)
        self._word = self._beat[-8 * _WORD_BYTES :]
        self._wait = Signal(range(Scratchpad.LATENCY + 1))
        self._status = Signal(8)
        self._length = Signal(16)
        self._position = Signal(range(link.MAX_PAYLOAD + 1))
        m.d.comb += [
            self.rx.ready.eq(1),
            self._buffer.write.addr.eq(self._position),
            self._buffer.read.addr.eq(self._position),
        ]
        with m.FSM() as fsm:
            self._receive(m)
            self._dispatch(m)
            self._registers(m)
            self._write_memory(m)
            self._read_memory(m)
            self._respond(m)
        receiving = [fsm.ongoing(name) for name in ("HUNT", "HEADER", "PAYLOAD", "CHECK")]
        m.d.comb += self.active.eq(~Cat(receiving).any())
        return m

    def _receive(self, m: Module) -> None:
        """HUNT, HEADER, PAYLOAD, CHECK: collect a request."""
        crc, byte, valid = self._crc, self.rx.payload, self.rx.valid
        position, fields = self._position, self._fields
        silence = Signal(range(self.gap_cycles + 1))

        def forget() -> None:
            with m.If(valid):
                m.d.sync += silence.eq(0)
            with m.Elif(silence == self.gap_cycles - 1):
                m.next = "HUNT"
            with m.Else():
                m.d.sync += silence.eq(silence + 1)

        with m.State("HUNT"):
            m.d.comb += crc.start.eq(1)
            m.d.sync += [position.eq(0), silence.eq(0)]
            with m.If(valid & (byte == link.REQUEST_SYNC)):
                m.next = "HEADER"
        with m.State("HEADER"):
            forget()
            m.d.comb += [crc.data.eq(byte), crc.valid.eq(valid)]
            with m.If(valid):
                m.d.sync += [
                    self._header.eq(Cat(self._header[8:], byte)),
                    position.eq(position + 1),
                ]
                with m.If(position == Request.HEADER_BYTES - 1):
                    m.d.sync += position.eq(0)
                    # The last byte is on its way: the others stand one byte too high.
                    command, length = self._header[8:16], self._header[24:40]
                    with m.If(command[0] & (length > link.MAX_PAYLOAD)):
                        m.next = "HUNT"
                    with m.Elif(command[0] & (length != 0)):
                        m.next = "PAYLOAD"
                    with m.Else():
                        m.next = "CHECK"
        with m.State("PAYLOAD"):
            forget()
            m.d.comb += [crc.data.eq(byte), crc.valid.eq(valid)]
            m.d.comb += [self._buffer.write.data.eq(byte), self._buffer.write.en.eq(valid)]
            with m.If(valid):
                m.d.sync += position.eq(position + 1)
                self._shift(m, byte)
                with m.If(position == fields["length"] - 1):
                    m.d.sync += position.eq(0)
                    m.next = "CHECK"
        with m.State("CHECK"):
            forget()
            m.d.comb += [crc.data.eq(byte), crc.valid.eq(valid)]
            with m.If(valid):
                m.d.sync += position.eq(position + 1)
                with m.If(position == _CHECK_BYTES - 1):
                    m.next = "VERDICT"

    def _shift(self, m: Module, byte) -> None:
        """Move the bytes of the beat down, ``byte`` on top."""
        m.d.sync += self._beat.eq(Cat(self._beat[8:], byte))

    def _fetch(self, m: Module, state: str) -> None:
        """Wait until the buffer has read the byte at ``position``, then go on to ``state``."""
        m.d.sync += self._wait.eq(self._wait + 1)
        with m.If(self._wait == Scratchpad.LATENCY - 1):
            m.d.sync += self._wait.eq(0)
            m.next = state

    def _ends_beat(self):
        """Return whether ``position`` is at the last byte of a beat."""
        return self._position[: self._lane_bits].all()

    def _dispatch(self, m: Module) -> None:
        """VERDICT: drop, answer at once, or carry out."""
        fields, lane_bits = self._fields, self._lane_bits
        command, address, length = fields["command"], fields["address"], fields["length"]
        # The request before: its number, and how it ended if it was a write.
        known, sequence, status = Signal(), Signal(8), Signal(8)
        window = (link.MAX_PAYLOAD - 1).bit_length()
        aligned = (address[:lane_bits] == 0) & (length[:lane_bits] == 0) & (length != 0)
        within = address[:window] + length <= link.MAX_PAYLOAD
        word = (address[:2] == 0) & (length == _WORD_BYTES)
        own = address[AXI_LITE_ADDRESS_BITS:] == link.BRIDGE_BASE >> AXI_LITE_ADDRESS_BITS
        theirs = address[AXI_LITE_ADDRESS_BITS:] == 0
        session = own & (
            address[:AXI_LITE_ADDRESS_BITS]
            == link.bridge_register("session").address - link.BRIDGE_BASE
        )
        opens = (command == Command.WRITE_REGISTER) & session
        repeated = known & (sequence == fields["sequence"]) & ~opens
        self._remember = (known, sequence, status)
        with m.State("VERDICT"):
            m.d.sync += [self._position.eq(0), self._length.eq(0), self._status.eq(Status.OK)]
            m.next = "RESPOND"
            with m.If(~self._crc.match_detected):
                m.next = "HUNT"
            with m.Elif(command[0] & repeated):
                m.d.sync += self._status.eq(status)
            with m.Else():
                m.d.sync += known.eq(0)
                with m.Switch(command):
                    with m.Case(Command.READ_REGISTER):
                        with m.If(word & theirs):
                            m.next = "READ_REGISTER"
                        with m.Elif(word & own):
                            m.next = "READ_OWN"
                        with m.Else():
                            m.d.sync += self._status.eq(Status.FORMAT)
                    with m.Case(Command.WRITE_REGISTER):
                        with m.If(word & theirs):
                            m.next = "WRITE_REGISTER"
                        with m.Elif(word & own):
                            m.d.sync += self._status.eq(Mux(session, Status.OK, Status.REFUSED))
                        with m.Else():
                            m.d.sync += self._status.eq(Status.FORMAT)
                    with m.Case(Command.READ_MEMORY):
                        with m.If(aligned & within):
                            m.next = "READ_ORDER"
                        with m.Else():
                            m.d.sync += self._status.eq(Status.FORMAT)
                    with m.Case(Command.WRITE_MEMORY):
                        with m.If(aligned & within):
                            m.next = "WRITE_ORDER"
                        with m.Else():
                            m.d.sync += self._status.eq(Status.FORMAT)
                    with m.Default():
                        m.d.sync += self._status.eq(Status.FORMAT)

    def _registers(self, m: Module) -> None:
        """READ_REGISTER, WRITE_REGISTER, READ_OWN: 32 bits."""
        fields = self._fields

        def port(name: str):
            return getattr(self, f"m_axil_{name}")

        asked = [Signal(name=f"asked_{name}") for name in ("address", "data")]
        m.d.comb += [
            port("araddr").eq(fields["address"]),
            port("awaddr").eq(fields["address"]),
            port("wdata").eq(self._word),
            port("wstrb").eq(-1),
        ]
        with m.State("READ_REGISTER"):
            m.d.comb += [port("arvalid").eq(~asked[0]), port("rready").eq(1)]
            with m.If(port("arready")):
                m.d.sync += asked[0].eq(1)
            with m.If(port("rvalid")):
                m.d.sync += [asked[0].eq(0), self._word.eq(port("rdata"))]
                with m.If(port("rresp") == OKAY):
                    m.d.sync += self._length.eq(_WORD_BYTES)
                with m.Else():
                    m.d.sync += self._status.eq(Status.REFUSED)
                m.next = "RESPOND"
        with m.State("WRITE_REGISTER"):
            m.d.comb += port("bready").eq(1)
            for channel, done in zip(("aw", "w"), asked, strict=True):
                m.d.comb += port(f"{channel}valid").eq(~done)
                with m.If(port(f"{channel}ready")):
                    m.d.sync += done.eq(1)
            with m.If(port("bvalid")):
                m.d.sync += [done.eq(0) for done in asked]
                m.d.sync += self._status.eq(Mux(port("bresp") == OKAY, Status.OK, Status.REFUSED))
                m.next = "RESPOND"
        values = {
            "session": link.LINK_VERSION,
            "memory_bytes": self.memory_bytes,
            "beat_bytes": self.config.bus_bytes,
            "clock_hz": self.clock_hz,
            "interrupt": self.interrupt,
        }
        with m.State("READ_OWN"):
            m.d.sync += [self._status.eq(Status.OK), self._length.eq(_WORD_BYTES)]
            with m.Switch(fields["address"][:AXI_LITE_ADDRESS_BITS]):
                for register in link.BRIDGE_REGISTERS:
                    with m.Case(register.address - link.BRIDGE_BASE):
                        m.d.sync += self._word.eq(values[register.name])
                with m.Default():
                    m.d.sync += [self._status.eq(Status.REFUSED), self._length.eq(0)]
            m.next = "RESPOND"

    def _beats(self):
        """Return the beats of the request, minus one."""
        return self._fields["length"][self._lane_bits :] - 1

    def _write_memory(self, m: Module) -> None:
        """WRITE_ORDER, WRITE_FETCH, WRITE_BYTE, WRITE_BEAT, WRITE_ANSWER: a burst out of the
        buffer.
        """
        aw, w, b = self.write.aw, self.write.w, self.write.b
        position = self._position
        m.d.comb += [
            aw.payload.addr.eq(self._fields["address"]),
            aw.payload.len.eq(self._beats()),
            w.payload.data.eq(self._beat),
            w.payload.last.eq(position == self._fields["length"]),
        ]
        with m.State("WRITE_ORDER"):
            m.d.comb += aw.valid.eq(1)
            with m.If(aw.ready):
                m.next = "WRITE_FETCH"
        with m.State("WRITE_FETCH"):
            self._fetch(m, "WRITE_BYTE")
        with m.State("WRITE_BYTE"):
            self._shift(m, self._buffer.read.data)
            m.d.sync += position.eq(position + 1)
            m.next = "WRITE_FETCH"
            with m.If(self._ends_beat()):
                m.next = "WRITE_BEAT"
        with m.State("WRITE_BEAT"):
            m.d.comb += w.valid.eq(1)
            with m.If(w.ready):
                m.next = "WRITE_FETCH"
                with m.If(w.payload.last):
                    m.next = "WRITE_ANSWER"
        with m.State("WRITE_ANSWER"):
            m.d.comb += b.ready.eq(1)
            with m.If(b.valid):
                m.d.sync += self._status.eq(Mux(b.payload.resp == OKAY, Status.OK, Status.MEMORY))
                m.next = "RESPOND"

    def _read_memory(self, m: Module) -> None:
        """READ_ORDER, READ_BEAT, READ_BYTE: a burst into the buffer."""
        ar, r = self.read.ar, self.read.r
        position = self._position
        m.d.comb += [
            ar.payload.addr.eq(self._fields["address"]),
            ar.payload.len.eq(self._beats()),
        ]
        with m.State("READ_ORDER"):
            m.d.comb += ar.valid.eq(1)
            m.d.sync += self._length.eq(self._fields["length"])
            with m.If(ar.ready):
                m.next = "READ_BEAT"
        with m.State("READ_BEAT"):
            m.d.comb += r.ready.eq(1)
            with m.If(r.valid):
                m.d.sync += self._beat.eq(r.payload.data)
                with m.If(r.payload.resp != OKAY):
                    m.d.sync += [self._status.eq(Status.MEMORY), self._length.eq(0)]
                m.next = "READ_BYTE"
        with m.State("READ_BYTE"):
            m.d.comb += [
                self._buffer.write.data.eq(self._beat[:8]),
                self._buffer.write.en.eq(1),
            ]
            self._shift(m, 0)
            m.d.sync += position.eq(position + 1)
            with m.If(self._ends_beat()):
                m.next = "READ_BEAT"
                with m.If(position == self._fields["length"] - 1):
                    m.next = "RESPOND"

    def _respond(self, m: Module) -> None:
        """RESPOND, SEND_HEADER, SEND_FETCH, SEND_PAYLOAD, SEND_CHECK: the response."""
        crc, tx, position, fields = self._crc, self.tx, self._position, self._fields
        known, sequence, status = self._remember
        header = Cat(self._status, fields["sequence"], self._length)
        assert len(header) == 8 * Response.HEADER_BYTES
        head_bytes = Array(header.word_select(i, 8) for i in range(Response.HEADER_BYTES))
        check_bytes = Array(crc.crc.word_select(i, 8) for i in range(_CHECK_BYTES))
        from_word = fields["command"] == Command.READ_REGISTER
        byte = Mux(from_word, self._word[:8], self._buffer.read.data)

        def counted(last) -> None:
            """Send bytes 0 to ``last`` and go on to the next state."""
            m.d.comb += tx.valid.eq(1)
            with m.If(tx.ready):
                m.d.sync += position.eq(Mux(position == last, 0, position + 1))

        with m.State("RESPOND"):
            m.d.comb += [tx.valid.eq(1), tx.payload.eq(link.RESPONSE_SYNC), crc.start.eq(1)]
            m.d.sync += position.eq(0)
            with m.If(fields["command"][0]):
                m.d.sync += known.eq(1)
            m.d.sync += [sequence.eq(fields["sequence"]), status.eq(self._status)]
            with m.If(tx.ready):
                m.next = "SEND_HEADER"
        with m.State("SEND_HEADER"):
            counted(Response.HEADER_BYTES - 1)
            m.d.comb += [tx.payload.eq(head_bytes[position]), crc.data.eq(tx.payload)]
            m.d.comb += crc.valid.eq(tx.ready)
            with m.If(tx.ready & (position == Response.HEADER_BYTES - 1)):
                m.next = "SEND_FETCH"
                with m.If(self._length == 0):
                    m.next = "SEND_CHECK"
        with m.State("SEND_FETCH"):
            self._fetch(m, "SEND_PAYLOAD")
        with m.State("SEND_PAYLOAD"):
            counted(self._length - 1)
            m.d.comb += [tx.payload.eq(byte), crc.data.eq(tx.payload), crc.valid.eq(tx.ready)]
            with m.If(tx.ready):
                self._shift(m, 0)
                m.next = "SEND_FETCH"
                with m.If(position == self._length - 1):
                    m.next = "SEND_CHECK"
        with m.State("SEND_CHECK"):
            # The check is the state of the CRC after the last byte: nothing is fed any more.
            counted(_CHECK_BYTES - 1)
            m.d.comb += tx.payload.eq(check_bytes[position])
            with m.If(tx.ready & (position == _CHECK_BYTES - 1)):
                m.next = "HUNT"
