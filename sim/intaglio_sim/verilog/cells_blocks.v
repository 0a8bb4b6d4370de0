// Behaviour of block RAMs that yosys describes by their ports alone, as far as the primitives use
// them, and as synthesis uses them for memories of its own: one clock, a write port, a read port.
//
// Written from the vendors' descriptions: Gowin UG285 (SDPB, SDPX9B), Lattice FPGA-TN-02094
// (PDPSC16K), Xilinx UG473 and UG573 (RAMB18E1, RAMB18E2).

// 18 Kbit as bytes of nine bits, or, in rows of less than nine bits, as bytes of eight.
module block18 #(
    parameter WIDTH = 36,
    parameter BYPASS = 0         // without the output register
) (
    input clk,
    input [3:0] write,           // per byte of a row; bit 0 for narrow rows
    input [13:0] write_address,  // in bits (of the eight of each byte)
    input [13:0] read_address,
    input [35:0] data,
    input enable_read,
    input enable_output,
    output [35:0] q
);
    reg [8:0] memory [0:2047];
    reg [35:0] row, registered;
    assign q = BYPASS ? row : registered;
    integer i;
    initial for (i = 0; i < 2048; i = i + 1) memory[i] = 9'd0;

    localparam BYTES = WIDTH >= 9 ? WIDTH / 9 : 1;
    wire [10:0] write_byte = write_address[13:3] & ~(BYTES - 1);
    wire [10:0] read_byte = read_address[13:3] & ~(BYTES - 1);
    wire [2:0] write_bit = write_address[2:0] & ~(WIDTH - 1);
    wire [2:0] read_bit = read_address[2:0] & ~(WIDTH - 1);

    always @(posedge clk) begin
        if (enable_read) row <= 36'bx;
        if (WIDTH >= 9) begin
            for (i = 0; i < BYTES; i = i + 1) begin
                if (enable_read) row[9*i +: 9] <= memory[read_byte + i];
                if (write[i]) memory[write_byte + i] <= data[9*i +: 9];
            end
            // A row that is written while it is read is anything.
            if (enable_read && |write[BYTES-1:0] && write_byte == read_byte) row <= 36'bx;
        end else begin
            for (i = 0; i < WIDTH; i = i + 1) begin
                if (enable_read) row[i] <= memory[read_byte][read_bit + i];
                if (write[0]) memory[write_byte][write_bit + i] <= data[i];
            end
            if (enable_read && write[0] && write_byte == read_byte && write_bit == read_bit)
                row <= 36'bx;
        end
        if (enable_output) registered <= row;
    end
endmodule

// Gowin. In rows of 18 and 36 bits the lowest bits of the write address enable bytes.
module SDPX9B #(
    parameter READ_MODE = 1'b0, BIT_WIDTH_0 = 36, BIT_WIDTH_1 = 36, BLK_SEL_0 = 3'b000,
    BLK_SEL_1 = 3'b000, RESET_MODE = "SYNC"
) (
    input CLKA, CEA, CLKB, CEB, OCE, RESETA, RESETB,
    input [13:0] ADA, ADB,
    input [2:0] BLKSELA, BLKSELB,
    input [35:0] DI,
    output [35:0] DO
);
    initial if (BIT_WIDTH_0 != BIT_WIDTH_1) $fatal(1, "not modelled");
    wire on = CEA && BLKSELA == BLK_SEL_0 && !RESETA;
    wire [3:0] write = BIT_WIDTH_0 > 9 ? ADA[3:0] : 4'b0001;
    block18 #(.WIDTH(BIT_WIDTH_0), .BYPASS(!READ_MODE)) block (
        .clk(CLKA), .write(on ? write : 4'd0), .write_address(ADA), .read_address(ADB), .data(DI),
        .enable_read(CEB), .enable_output(OCE & CEB), .q(DO));
endmodule

module SDPB #(
    parameter READ_MODE = 1'b0, BIT_WIDTH_0 = 32, BIT_WIDTH_1 = 32, BLK_SEL_0 = 3'b000,
    BLK_SEL_1 = 3'b000, RESET_MODE = "SYNC"
) (
    input CLKA, CEA, CLKB, CEB, OCE, RESETA, RESETB,
    input [13:0] ADA, ADB,
    input [2:0] BLKSELA, BLKSELB,
    input [31:0] DI,
    output [31:0] DO
);
    initial if (READ_MODE !== 1'b1 || BIT_WIDTH_0 != BIT_WIDTH_1 || BIT_WIDTH_0 > 8)
        $fatal(1, "not modelled");
    wire [35:0] q;
    assign DO = q[31:0];
    block18 #(.WIDTH(BIT_WIDTH_0)) block (
        .clk(CLKA), .write({3'd0, CEA && BLKSELA == BLK_SEL_0 && !RESETA}), .write_address(ADA),
        .read_address(ADB), .data({4'd0, DI}), .enable_read(CEB), .enable_output(OCE & CEB),
        .q(q));
endmodule

// Lattice Nexus. The byte enables stand where Gowin has them; a bit of CSDECODE says which level of
// its select line the block answers to.
module PDPSC16K #(
    parameter DATA_WIDTH_W = "X36", DATA_WIDTH_R = "X36", OUTREG = "BYPASSED", RESETMODE = "SYNC",
    ASYNC_RST_RELEASE = "SYNC", GSR = "ENABLED", ECC = "DISABLED", CSDECODE_W = "000",
    CSDECODE_R = "000"
) (
    input [35:0] DI,
    input [13:0] ADW, ADR,
    input CLK, CER, CEW,
    input [2:0] CSW, CSR,
    input RST,
    output [35:0] DO,
    output ONEBITERR, TWOBITERR
);
    localparam WIDTH = DATA_WIDTH_W == "X36" ? 36 : DATA_WIDTH_W == "X18" ? 18
        : DATA_WIDTH_W == "X9" ? 9 : DATA_WIDTH_W == "X4" ? 4 : DATA_WIDTH_W == "X2" ? 2 : 1;
    initial if (OUTREG != "USED" || DATA_WIDTH_W != DATA_WIDTH_R || CSDECODE_W != "111"
        || CSDECODE_R != "111") $fatal(1, "not modelled");
    wire [3:0] write = WIDTH > 9 ? ADW[3:0] : 4'b0001;
    block18 #(.WIDTH(WIDTH)) block (
        .clk(CLK), .write(CEW && CSW == 3'b111 ? write : 4'd0), .write_address(ADW),
        .read_address(ADR), .data(DI), .enable_read(CER), .enable_output(CER & ~RST), .q(DO));
endmodule

// Xilinx, port A reads and port B writes. The ninth bit of a byte is a pin apart.
module ramb18 #(
    parameter WIDTH = 36
) (
    input clk,
    input [13:0] write_address, read_address,
    input [31:0] data,
    input [3:0] parity, write,
    input enable_output,
    output [31:0] q,
    output [3:0] q_parity
);
    wire [35:0] out;
    block18 #(.WIDTH(WIDTH)) block (
        .clk(clk), .write(write), .write_address(write_address), .read_address(read_address),
        .data(WIDTH < 9 ? {4'd0, data} : {parity[3], data[31:24], parity[2], data[23:16], parity[1],
            data[15:8], parity[0], data[7:0]}),
        .enable_read(1'b1), .enable_output(enable_output), .q(out));
    assign q = WIDTH < 9 ? out[31:0] : {out[34:27], out[25:18], out[16:9], out[7:0]};
    assign q_parity = {out[35], out[26], out[17], out[8]};
endmodule

module RAMB18E1 #(
    parameter integer DOA_REG = 0, DOB_REG = 0, READ_WIDTH_A = 0, READ_WIDTH_B = 0,
    WRITE_WIDTH_A = 0, WRITE_WIDTH_B = 0,
    parameter RAM_MODE = "TDP", WRITE_MODE_A = "WRITE_FIRST", WRITE_MODE_B = "WRITE_FIRST"
) (
    input CLKARDCLK, CLKBWRCLK, ENARDEN, ENBWREN, REGCEAREGCE, REGCEB, RSTRAMARSTRAM, RSTRAMB,
    RSTREGARSTREG, RSTREGB,
    input [13:0] ADDRARDADDR, ADDRBWRADDR,
    input [15:0] DIADI, DIBDI,
    input [1:0] DIPADIP, DIPBDIP, WEA,
    input [3:0] WEBWE,
    output [15:0] DOADO, DOBDO,
    output [1:0] DOPADOP, DOPBDOP
);
    localparam SIMPLE = RAM_MODE == "SDP";
    initial if (!DOA_REG || !DOB_REG || READ_WIDTH_A != WRITE_WIDTH_B || READ_WIDTH_B
        || WRITE_WIDTH_A || SIMPLE != (READ_WIDTH_A == 36)) $fatal(1, "not modelled");
    wire [3:0] write = SIMPLE ? WEBWE : {2'd0, WEBWE[1:0]};
    wire [31:0] q;
    wire [3:0] q_parity;
    assign {DOBDO, DOADO} = SIMPLE ? q : {16'bx, q[15:0]};
    assign {DOPBDOP, DOPADOP} = SIMPLE ? q_parity : {2'bx, q_parity[1:0]};
    ramb18 #(.WIDTH(READ_WIDTH_A)) ram (
        .clk(CLKARDCLK), .write_address(ADDRBWRADDR), .read_address(ADDRARDADDR),
        .data(SIMPLE ? {DIBDI, DIADI} : {16'd0, DIBDI}),
        .parity(SIMPLE ? {DIPBDIP, DIPADIP} : {2'd0, DIPBDIP}),
        .write(ENBWREN ? write : 4'd0), .enable_output(REGCEAREGCE & ENARDEN), .q(q),
        .q_parity(q_parity));
endmodule

module RAMB18E2 #(
    parameter integer DOA_REG = 1, DOB_REG = 1, READ_WIDTH_A = 0, READ_WIDTH_B = 0,
    WRITE_WIDTH_A = 0, WRITE_WIDTH_B = 0,
    parameter CLOCK_DOMAINS = "INDEPENDENT", WRITE_MODE_A = "NO_CHANGE", WRITE_MODE_B = "NO_CHANGE"
) (
    input CLKARDCLK, CLKBWRCLK, ENARDEN, ENBWREN, REGCEAREGCE, REGCEB, RSTRAMARSTRAM, RSTRAMB,
    RSTREGARSTREG, RSTREGB, SLEEP, ADDRENA, ADDRENB,
    input [13:0] ADDRARDADDR, ADDRBWRADDR,
    input [15:0] DINADIN, DINBDIN,
    input [1:0] DINPADINP, DINPBDINP, WEA,
    input [3:0] WEBWE,
    output [15:0] DOUTADOUT, DOUTBDOUT,
    output [1:0] DOUTPADOUTP, DOUTPBDOUTP
);
    RAMB18E1 #(
        .DOA_REG(DOA_REG), .DOB_REG(DOB_REG), .READ_WIDTH_A(READ_WIDTH_A),
        .READ_WIDTH_B(READ_WIDTH_B), .WRITE_WIDTH_A(WRITE_WIDTH_A), .WRITE_WIDTH_B(WRITE_WIDTH_B),
        .RAM_MODE(READ_WIDTH_A == 36 ? "SDP" : "TDP")
    ) ram (
        .CLKARDCLK(CLKARDCLK), .CLKBWRCLK(CLKBWRCLK), .ENARDEN(ENARDEN), .ENBWREN(ENBWREN & ~SLEEP),
        .REGCEAREGCE(REGCEAREGCE), .REGCEB(REGCEB), .RSTRAMARSTRAM(RSTRAMARSTRAM),
        .RSTRAMB(RSTRAMB), .RSTREGARSTREG(RSTREGARSTREG), .RSTREGB(RSTREGB),
        .ADDRARDADDR(ADDRARDADDR), .ADDRBWRADDR(ADDRBWRADDR), .DIADI(DINADIN), .DIBDI(DINBDIN),
        .DIPADIP(DINPADINP), .DIPBDIP(DINPBDINP), .WEA(WEA), .WEBWE(WEBWE), .DOADO(DOUTADOUT),
        .DOBDO(DOUTBDOUT), .DOPADOP(DOUTPADOUTP), .DOPBDOP(DOUTPBDOUTP));
endmodule
