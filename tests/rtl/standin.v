// A stand-in with the ports of the accelerator, for tests of the test bench itself: `start` copies the
// lower half of the memory to the upper half in bursts of 8 beats and raises the interrupt. The program
// length selects what goes wrong: 1 nothing, 2 reports an error, 3 no interrupt, 4 writes unknown data,
// 5 withdraws a write address.
module accelerator (
    input  wire        clk,
    input  wire        rst,
    output reg         interrupt,
    output wire        m_axi_awid,
    input  wire        m_axi_bid,
    output wire        m_axi_arid,
    input  wire        m_axi_rid,
    output wire [31:0] m_axi_awaddr,
    output wire [7:0]  m_axi_awlen,
    output wire [2:0]  m_axi_awsize,
    output wire [1:0]  m_axi_awburst,
    output reg         m_axi_awvalid,
    input  wire        m_axi_awready,
    output wire [63:0] m_axi_wdata,
    output wire [7:0]  m_axi_wstrb,
    output wire        m_axi_wlast,
    output wire        m_axi_wvalid,
    input  wire        m_axi_wready,
    input  wire [1:0]  m_axi_bresp,
    input  wire        m_axi_bvalid,
    output wire        m_axi_bready,
    output wire [31:0] m_axi_araddr,
    output wire [7:0]  m_axi_arlen,
    output wire [2:0]  m_axi_arsize,
    output wire [1:0]  m_axi_arburst,
    output reg         m_axi_arvalid,
    input  wire        m_axi_arready,
    input  wire [63:0] m_axi_rdata,
    input  wire [1:0]  m_axi_rresp,
    input  wire        m_axi_rlast,
    input  wire        m_axi_rvalid,
    output wire        m_axi_rready,
    input  wire [11:0] s_axil_awaddr,
    input  wire [2:0]  s_axil_awprot,
    input  wire        s_axil_awvalid,
    output wire        s_axil_awready,
    input  wire [31:0] s_axil_wdata,
    input  wire [3:0]  s_axil_wstrb,
    input  wire        s_axil_wvalid,
    output wire        s_axil_wready,
    output reg  [1:0]  s_axil_bresp,
    output reg         s_axil_bvalid,
    input  wire        s_axil_bready,
    input  wire [11:0] s_axil_araddr,
    input  wire [2:0]  s_axil_arprot,
    input  wire        s_axil_arvalid,
    output wire        s_axil_arready,
    output reg  [31:0] s_axil_rdata,
    output wire [1:0]  s_axil_rresp,
    output reg         s_axil_rvalid,
    input  wire        s_axil_rready,
    output wire [3:0]  trace_start,
    output wire [3:0]  trace_done,
    output wire [31:0] trace_start_index_load,
    output wire [31:0] trace_done_index_load,
    output wire [31:0] trace_start_index_array,
    output wire [31:0] trace_done_index_array,
    output wire [31:0] trace_start_index_vector,
    output wire [31:0] trace_done_index_vector,
    output wire [31:0] trace_start_index_store,
    output wire [31:0] trace_done_index_store
);
    reg [31:0] memory_base, memory_bytes, program_length, place;
    reg [2:0] state, filled, sent;
    reg [63:0] beats [0:7];
    reg finished;

    assign {m_axi_awid, m_axi_arid} = 2'b00;
    assign m_axi_araddr = memory_base + place;
    assign m_axi_awaddr = memory_base + place + (memory_bytes >> 1);
    assign {m_axi_arlen, m_axi_awlen} = {8'd7, 8'd7};
    assign {m_axi_arsize, m_axi_awsize} = {3'd3, 3'd3};
    assign {m_axi_arburst, m_axi_awburst} = {2'd1, 2'd1};
    assign m_axi_rready = state == 1;
    assign m_axi_wvalid = state == 2;
    assign m_axi_wdata = program_length == 4 ? {64{1'bx}} : beats[sent];
    assign m_axi_wstrb = 8'hff;
    assign m_axi_wlast = sent == 7;
    assign m_axi_bready = state == 3;
    assign trace_start = {3'd0, m_axi_arvalid && m_axi_arready};
    assign trace_done = {3'd0, m_axi_bvalid && m_axi_bready};
    assign trace_start_index_load = place >> 6;
    assign trace_done_index_load = place >> 6;
    assign {trace_start_index_array, trace_done_index_array} = 64'd0;
    assign {trace_start_index_vector, trace_done_index_vector} = 64'd0;
    assign {trace_start_index_store, trace_done_index_store} = 64'd0;

    assign s_axil_awready = s_axil_awvalid && s_axil_wvalid && !s_axil_bvalid;
    assign s_axil_wready = s_axil_awready;
    assign s_axil_arready = !s_axil_rvalid;
    assign s_axil_rresp = 2'd0;

    always @(posedge clk) begin
        if (s_axil_bready) s_axil_bvalid <= 1'b0;
        if (s_axil_rready) s_axil_rvalid <= 1'b0;
        if (s_axil_awready) begin
            s_axil_bvalid <= 1'b1;
            s_axil_bresp <= s_axil_awaddr < 12'h010 ? 2'd2 : 2'd0;
            case (s_axil_awaddr)
                12'h010: begin state <= 1; place <= 0; m_axi_arvalid <= 1'b1; finished <= 1'b0; end
                12'h024: interrupt <= 1'b0;
                12'h02c: program_length <= s_axil_wdata;
                12'h030: memory_base <= s_axil_wdata;
                12'h034: memory_bytes <= s_axil_wdata;
                default: ;
            endcase
        end
        if (s_axil_arvalid && s_axil_arready) begin
            s_axil_rvalid <= 1'b1;
            case (s_axil_araddr)
                12'h014: s_axil_rdata <= {29'd0, program_length == 2, finished && program_length != 2,
                                          state != 0};
                12'h018: s_axil_rdata <= program_length == 2 ? 32'd3 : 32'd0;
                12'h01c: s_axil_rdata <= 32'd77;
                12'h024: s_axil_rdata <= {30'd0, interrupt, 1'b0};
                12'h080: s_axil_rdata <= 32'd1234;
                default: s_axil_rdata <= 32'd0;
            endcase
        end
        if (m_axi_arvalid && m_axi_arready) begin m_axi_arvalid <= 1'b0; filled <= 0; end
        if (m_axi_rvalid && m_axi_rready) begin
            beats[filled] <= m_axi_rdata;
            filled <= filled + 1;
            if (m_axi_rlast) begin state <= 2; m_axi_awvalid <= 1'b1; sent <= 0; end
        end
        if (m_axi_awvalid && (m_axi_awready || program_length == 5)) m_axi_awvalid <= 1'b0;
        if (m_axi_wvalid && m_axi_wready) begin
            sent <= sent + 1;
            if (m_axi_wlast) state <= 3;
        end
        if (m_axi_bvalid && m_axi_bready) begin
            place <= place + 64;
            state <= place + 64 == memory_bytes >> 1 ? 0 : 1;
            m_axi_arvalid <= place + 64 != memory_bytes >> 1;
            if (place + 64 == memory_bytes >> 1) begin
                finished <= 1'b1;
                interrupt <= program_length != 3;
            end
        end
        if (rst) begin
            {interrupt, m_axi_arvalid, m_axi_awvalid, s_axil_bvalid, s_axil_rvalid} <= 5'd0;
            state <= 0;
            program_length <= 0;
            finished <= 1'b0;
        end
    end
endmodule
