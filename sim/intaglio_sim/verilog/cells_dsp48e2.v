// DSP48E2 as far as the primitives use it, on the model of its predecessor that comes with yosys:
// factors of up to 18 bits, no pre-adder, P = A * B (Xilinx UG579).
module DSP48E2 #(
    parameter integer AREG = 1, BREG = 1, MREG = 1, PREG = 1, ACASCREG = 1, BCASCREG = 1, ADREG = 1,
    ALUMODEREG = 1, CARRYINREG = 1, CARRYINSELREG = 1, CREG = 1, DREG = 1, INMODEREG = 1,
    OPMODEREG = 1,
    parameter AMULTSEL = "A", USE_MULT = "MULTIPLY"
) (
    input [29:0] A, ACIN,
    input [17:0] B, BCIN,
    input [47:0] C, PCIN,
    input [26:0] D,
    input [3:0] ALUMODE,
    input [2:0] CARRYINSEL,
    input [4:0] INMODE,
    input [8:0] OPMODE,
    input CLK, CARRYCASCIN, CARRYIN, MULTSIGNIN, CEA1, CEA2, CEAD, CEALUMODE, CEB1, CEB2, CEC,
    CECARRYIN, CECTRL, CED, CEINMODE, CEM, CEP, RSTA, RSTALLCARRYIN, RSTALUMODE, RSTB, RSTC,
    RSTCTRL, RSTD, RSTINMODE, RSTM, RSTP,
    output [47:0] P
);
    initial if (AMULTSEL != "A") $fatal(1, "not modelled");
    // Bits 8 and 7 select the W multiplexer, which is zero.
    always @(posedge CLK) if (OPMODE[8:7] !== 2'b00) $fatal(1, "not modelled");
    DSP48E1 #(
        .AREG(AREG), .BREG(BREG), .MREG(MREG), .PREG(PREG), .ACASCREG(ACASCREG),
        .BCASCREG(BCASCREG), .ADREG(ADREG), .ALUMODEREG(ALUMODEREG), .CARRYINREG(CARRYINREG),
        .CARRYINSELREG(CARRYINSELREG), .CREG(CREG), .DREG(DREG), .INMODEREG(INMODEREG),
        .OPMODEREG(OPMODEREG), .USE_MULT(USE_MULT), .USE_DPORT("FALSE")
    ) dsp (
        .A(A), .ACIN(ACIN), .B(B), .BCIN(BCIN), .C(C), .PCIN(PCIN), .D(D[24:0]), .ALUMODE(ALUMODE),
        .CARRYINSEL(CARRYINSEL), .INMODE(INMODE), .OPMODE(OPMODE[6:0]), .CLK(CLK),
        .CARRYCASCIN(CARRYCASCIN), .CARRYIN(CARRYIN), .MULTSIGNIN(MULTSIGNIN), .CEA1(CEA1),
        .CEA2(CEA2), .CEAD(CEAD), .CEALUMODE(CEALUMODE), .CEB1(CEB1), .CEB2(CEB2), .CEC(CEC),
        .CECARRYIN(CECARRYIN), .CECTRL(CECTRL), .CED(CED), .CEINMODE(CEINMODE), .CEM(CEM),
        .CEP(CEP), .RSTA(RSTA), .RSTALLCARRYIN(RSTALLCARRYIN), .RSTALUMODE(RSTALUMODE), .RSTB(RSTB),
        .RSTC(RSTC), .RSTCTRL(RSTCTRL), .RSTD(RSTD), .RSTINMODE(RSTINMODE), .RSTM(RSTM),
        .RSTP(RSTP), .P(P));
endmodule
