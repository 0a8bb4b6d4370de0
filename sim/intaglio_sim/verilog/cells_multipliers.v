// Behaviour of multipliers that yosys describes by their ports alone, as far as the primitives use
// them. Written from the vendors' descriptions: Gowin UG287 (MULT9X9, MULT18X18), Xilinx UG579
// (DSP48E2, for what is used here a DSP48E1 with other widths, of which yosys has a model).

module gowin_multiplier #(
    parameter WIDTH = 18, AREG = 1'b0, BREG = 1'b0, OUT_REG = 1'b0, PIPE_REG = 1'b0
) (
    input [WIDTH-1:0] A, B,
    input ASIGN, BSIGN, CE, CLK,
    output [2*WIDTH-1:0] DOUT
);
    reg [WIDTH-1:0] a, b;
    reg signed [2*WIDTH+1:0] pipe, out;
    wire [WIDTH-1:0] ra = AREG ? a : A, rb = BREG ? b : B;
    wire signed [WIDTH:0] fa = {ASIGN & ra[WIDTH-1], ra}, fb = {BSIGN & rb[WIDTH-1], rb};
    wire signed [2*WIDTH+1:0] product = fa * fb;
    wire signed [2*WIDTH+1:0] middle = PIPE_REG ? pipe : product;
    always @(posedge CLK) if (CE) begin
        a <= A;
        b <= B;
        pipe <= product;
        out <= middle;
    end
    assign DOUT = OUT_REG ? out[2*WIDTH-1:0] : middle[2*WIDTH-1:0];
endmodule

module MULT9X9 #(
    parameter AREG = 1'b0, BREG = 1'b0, OUT_REG = 1'b0, PIPE_REG = 1'b0, ASIGN_REG = 1'b0,
    BSIGN_REG = 1'b0, SOA_REG = 1'b0, MULT_RESET_MODE = "SYNC"
) (
    input [8:0] A, SIA, B, SIB,
    input ASIGN, BSIGN, ASEL, BSEL, CE, CLK, RESET,
    output [17:0] DOUT,
    output [8:0] SOA, SOB
);
    initial if (ASIGN_REG || BSIGN_REG) $fatal(1, "not modelled");
    gowin_multiplier #(.WIDTH(9), .AREG(AREG), .BREG(BREG), .OUT_REG(OUT_REG), .PIPE_REG(PIPE_REG))
        multiplier (.A(ASEL ? SIA : A), .B(BSEL ? SIB : B), .ASIGN(ASIGN), .BSIGN(BSIGN), .CE(CE),
            .CLK(CLK), .DOUT(DOUT));
endmodule

module MULT18X18 #(
    parameter AREG = 1'b0, BREG = 1'b0, OUT_REG = 1'b0, PIPE_REG = 1'b0, ASIGN_REG = 1'b0,
    BSIGN_REG = 1'b0, SOA_REG = 1'b0, MULT_RESET_MODE = "SYNC"
) (
    input [17:0] A, SIA, B, SIB,
    input ASIGN, BSIGN, ASEL, BSEL, CE, CLK, RESET,
    output [35:0] DOUT,
    output [17:0] SOA, SOB
);
    initial if (ASIGN_REG || BSIGN_REG) $fatal(1, "not modelled");
    gowin_multiplier #(.WIDTH(18), .AREG(AREG), .BREG(BREG), .OUT_REG(OUT_REG), .PIPE_REG(PIPE_REG))
        multiplier (.A(ASEL ? SIA : A), .B(BSEL ? SIB : B), .ASIGN(ASIGN), .BSIGN(BSIGN), .CE(CE),
            .CLK(CLK), .DOUT(DOUT));
endmodule
