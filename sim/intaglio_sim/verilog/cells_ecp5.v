// Behaviour of ECP5 cells, as far as intaglio_hw.primitives.ecp5 uses them; for simulation only.
//
// Written from Lattice's Memory Usage Guide (TN1264) and sysDSP Usage Guide (TN1267): yosys ships
// ports and parameters of these cells, no behaviour. What the guides leave undefined, and what the
// primitives may not use, is x here.

module MULT18X18D (
  input A17, A16, A15, A14, A13, A12, A11, A10, A9, A8, A7, A6, A5, A4, A3, A2, A1, A0,
  input B17, B16, B15, B14, B13, B12, B11, B10, B9, B8, B7, B6, B5, B4, B3, B2, B1, B0,
  input SIGNEDA, SIGNEDB, SOURCEA, SOURCEB, CLK0, CE0, CE1, RST0,
  output P35, P34, P33, P32, P31, P30, P29, P28, P27, P26, P25, P24, P23, P22, P21, P20, P19,
  P18, P17, P16, P15, P14, P13, P12, P11, P10, P9, P8, P7, P6, P5, P4, P3, P2, P1, P0
);
  parameter REG_INPUTA_CLK = "NONE";
  parameter REG_INPUTA_CE = "CE0";
  parameter REG_INPUTA_RST = "RST0";
  parameter REG_INPUTB_CLK = "NONE";
  parameter REG_INPUTB_CE = "CE0";
  parameter REG_INPUTB_RST = "RST0";
  parameter REG_PIPELINE_CLK = "NONE";
  parameter REG_PIPELINE_CE = "CE0";
  parameter REG_PIPELINE_RST = "RST0";
  parameter REG_OUTPUT_CLK = "NONE";
  parameter REG_OUTPUT_CE = "CE0";
  parameter REG_OUTPUT_RST = "RST0";
  parameter CLK0_DIV = "ENABLED";
  parameter GSR = "ENABLED";
  parameter SOURCEB_MODE = "B_SHIFT";
  parameter MULT_BYPASS = "DISABLED";
  parameter RESETMODE = "SYNC";

  wire [17:0] a = {A17, A16, A15, A14, A13, A12, A11, A10, A9, A8, A7, A6, A5, A4, A3, A2, A1,
  A0};
  wire [17:0] b = {B17, B16, B15, B14, B13, B12, B11, B10, B9, B8, B7, B6, B5, B4, B3, B2, B1,
  B0};
  wire enable_a = REG_INPUTA_CE == "CE1" ? CE1 : CE0;
  wire enable_b = REG_INPUTB_CE == "CE1" ? CE1 : CE0;
  wire enable_p = REG_PIPELINE_CE == "CE1" ? CE1 : CE0;
  wire enable_o = REG_OUTPUT_CE == "CE1" ? CE1 : CE0;
  reg [17:0] a_registered, b_registered;
  reg [35:0] p_registered, o_registered;
  wire [17:0] a_inner = REG_INPUTA_CLK == "NONE" ? a : a_registered;
  wire [17:0] b_inner = REG_INPUTB_CLK == "NONE" ? b : b_registered;
  // Both factors signed, both from the ports, no reset: nothing else is described.
  wire described = SIGNEDA === 1'b1 && SIGNEDB === 1'b1 && SOURCEA === 1'b0 && SOURCEB === 1'b0
      && RST0 === 1'b0;
  wire [35:0] p = described ? {{18{a_inner[17]}}, a_inner} * {{18{b_inner[17]}}, b_inner} : 36'bx;
  wire [35:0] p_inner = REG_PIPELINE_CLK == "NONE" ? p : p_registered;
  always @(posedge CLK0) begin
    if (enable_a) a_registered <= a;
    if (enable_b) b_registered <= b;
    if (enable_p) p_registered <= p;
    if (enable_o) o_registered <= p_inner;
  end
  assign {P35, P34, P33, P32, P31, P30, P29, P28, P27, P26, P25, P24, P23, P22, P21, P20, P19,
  P18, P17, P16, P15, P14, P13, P12, P11, P10, P9, P8, P7, P6, P5, P4, P3, P2, P1, P0} =
  REG_OUTPUT_CLK == "NONE" ? p_inner : o_registered;
endmodule

module DP16KD (
  input DIA17, DIA16, DIA15, DIA14, DIA13, DIA12, DIA11, DIA10, DIA9, DIA8, DIA7, DIA6, DIA5,
  DIA4, DIA3, DIA2, DIA1, DIA0,
  input ADA13, ADA12, ADA11, ADA10, ADA9, ADA8, ADA7, ADA6, ADA5, ADA4, ADA3, ADA2, ADA1, ADA0,
  input CEA, OCEA, CLKA, WEA, RSTA, CSA2, CSA1, CSA0,
  output DOA17, DOA16, DOA15, DOA14, DOA13, DOA12, DOA11, DOA10, DOA9, DOA8, DOA7, DOA6, DOA5,
  DOA4, DOA3, DOA2, DOA1, DOA0,
  input DIB17, DIB16, DIB15, DIB14, DIB13, DIB12, DIB11, DIB10, DIB9, DIB8, DIB7, DIB6, DIB5,
  DIB4, DIB3, DIB2, DIB1, DIB0,
  input ADB13, ADB12, ADB11, ADB10, ADB9, ADB8, ADB7, ADB6, ADB5, ADB4, ADB3, ADB2, ADB1, ADB0,
  input CEB, OCEB, CLKB, WEB, RSTB, CSB2, CSB1, CSB0,
  output DOB17, DOB16, DOB15, DOB14, DOB13, DOB12, DOB11, DOB10, DOB9, DOB8, DOB7, DOB6, DOB5,
  DOB4, DOB3, DOB2, DOB1, DOB0
);
  parameter DATA_WIDTH_A = 18;
  parameter DATA_WIDTH_B = 18;
  parameter REGMODE_A = "NOREG";
  parameter REGMODE_B = "NOREG";
  parameter RESETMODE = "SYNC";
  parameter ASYNC_RESET_RELEASE = "SYNC";
  parameter CSDECODE_A = "0b000";
  parameter CSDECODE_B = "0b000";
  parameter WRITEMODE_A = "NORMAL";
  parameter WRITEMODE_B = "NORMAL";
  parameter CLKAMUX = "CLKA";
  parameter CLKBMUX = "CLKB";
  parameter GSR = "ENABLED";

  wire [13:0] address_a = {ADA13, ADA12, ADA11, ADA10, ADA9, ADA8, ADA7, ADA6, ADA5, ADA4, ADA3,
  ADA2, ADA1, ADA0};
  wire [13:0] address_b = {ADB13, ADB12, ADB11, ADB10, ADB9, ADB8, ADB7, ADB6, ADB5, ADB4, ADB3,
  ADB2, ADB1, ADB0};
  wire [17:0] data_a = {DIA17, DIA16, DIA15, DIA14, DIA13, DIA12, DIA11, DIA10, DIA9, DIA8,
  DIA7, DIA6, DIA5, DIA4, DIA3, DIA2, DIA1, DIA0};
  wire [17:0] data_b = {DIB17, DIB16, DIB15, DIB14, DIB13, DIB12, DIB11, DIB10, DIB9, DIB8,
  DIB7, DIB6, DIB5, DIB4, DIB3, DIB2, DIB1, DIB0};
  // Port A writes, port B reads; nothing else is described.
  wire [35:0] data = {data_b, data_a};
  wire described = RSTA === 1'b0 && RSTB === 1'b0 && WEB === 1'b0
      && {CSA2, CSA1, CSA0, CSB2, CSB1, CSB0} === 6'b0;
  reg [8:0] rows [0:2047];
  reg [8:0] taken;
  reg [35:0] row, registered;
  integer i;
  initial for (i = 0; i < 2048; i = i + 1) rows[i] = 0;

  // Bytes of a row: 4, 2, 1, or a part of one.
  localparam BYTES_A = DATA_WIDTH_A / 9 > 0 ? DATA_WIDTH_A / 9 : 1;
  localparam BYTES_B = DATA_WIDTH_B / 9 > 0 ? DATA_WIDTH_B / 9 : 1;
  wire [10:0] byte_a = address_a[13:3] / BYTES_A * BYTES_A;
  wire [10:0] byte_b = address_b[13:3] / BYTES_B * BYTES_B;

  always @(posedge CLKB) begin
    if (OCEB) registered <= row;
    if (CEB) begin
      if (DATA_WIDTH_B >= 9) begin
        for (i = 0; i < BYTES_B; i = i + 1) row[9 * i +: 9] <= rows[byte_b + i];
      end else begin
        row <= 0;
        for (i = 0; i < DATA_WIDTH_B; i = i + 1) row[i] <= rows[byte_b][address_b[2:0] + i];
      end
      if (!described) row <= 36'bx;
    end
    // A row that is written and read at once reads as anything.
    if (CEA && WEA) begin
      if (DATA_WIDTH_A >= 9) begin
        for (i = 0; i < BYTES_A; i = i + 1) begin
          if (DATA_WIDTH_A == 9 || address_a[i]) begin
            rows[byte_a + i] <= data[9 * i +: 9];
            if (byte_a == byte_b) row[9 * i +: 9] <= 9'bx;
          end
        end
      end else begin
        taken = rows[byte_a];
        for (i = 0; i < DATA_WIDTH_A; i = i + 1) taken[address_a[2:0] + i] = data[i];
        rows[byte_a] <= taken;
        if (address_a == address_b) row <= 36'bx;
      end
    end
  end
  wire [35:0] read = REGMODE_B == "OUTREG" && REGMODE_A == "OUTREG" ? registered : row;
  assign {DOB17, DOB16, DOB15, DOB14, DOB13, DOB12, DOB11, DOB10, DOB9, DOB8, DOB7, DOB6, DOB5,
  DOB4, DOB3, DOB2, DOB1, DOB0} = DATA_WIDTH_B == 36 ? read[35:18] : read[17:0];
  assign {DOA17, DOA16, DOA15, DOA14, DOA13, DOA12, DOA11, DOA10, DOA9, DOA8, DOA7, DOA6, DOA5,
  DOA4, DOA3, DOA2, DOA1, DOA0} = DATA_WIDTH_B == 36 ? read[17:0] : 18'bx;
endmodule
